"""What is made from the model: the reference pages, the JSON schema, the example file."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from kbr.config import load_config
from kbr.config.example import example_file
from kbr.config.keys import all_keys
from kbr.config.schema import json_schema
from kbr.errors import KbrError

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    loader = SourceFileLoader("gen_reference", str(ROOT / "scripts" / "gen-reference"))
    spec = spec_from_loader("gen_reference", loader)
    assert spec is not None
    module = module_from_spec(spec)
    loader.exec_module(module)
    return module


def test_the_committed_pages_are_what_the_code_says(generator: ModuleType) -> None:
    for name, text in generator.generate().items():
        committed = (ROOT / "docs" / "reference" / name).read_text(encoding="utf-8")
        assert committed == text, f"docs/reference/{name} is out of date: run scripts/gen-reference"


def test_the_generator_says_what_it_does() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "gen-reference"), "--help"], capture_output=True, text=True, check=True
    )
    assert "docs/reference" in done.stdout


def test_every_key_is_explained() -> None:
    for key in all_keys():
        assert key.description.endswith("."), key.name
        assert key.kind, key.name
        if key.name.endswith(("_ms", "_bytes")):
            assert key.unit, key.name


def test_every_exit_code_of_an_error_has_a_meaning(generator: ModuleType) -> None:
    codes = {one.exit_code for one in generator.error_classes()}
    assert codes | {0} == set(generator.EXIT_CODES)
    assert KbrError in generator.error_classes()


@pytest.mark.parametrize("mode", ["backup", "restore"])
def test_the_example_file_is_valid_as_it_is(tmp_path: Path, mode: Any) -> None:
    path = tmp_path / "kbr.yaml"
    path.write_text(example_file(mode), encoding="utf-8")
    assert load_config(path, environ={}, mode=mode).mode == mode


@pytest.mark.parametrize("mode", ["backup", "restore"])
def test_every_line_of_the_example_file_is_valid_when_it_is_turned_on(tmp_path: Path, mode: Any) -> None:
    """All lines at once: only what excludes each other may be complained about."""
    path = tmp_path / "kbr.yaml"
    text = re.sub(r"(?m)^( *)#(?=[a-z_]+:)", r"\1", example_file(mode))
    (tmp_path / "client.properties").touch()  # it is read, and so has to be there
    text = text.replace("/etc/kafka/client.properties", str(tmp_path / "client.properties"))
    path.write_text(text, encoding="utf-8")
    environ = {"KAFKA_PASSWORD": "a", "KAFKA_CLIENT_SECRET": "e", "KAFKA_KEY_PASSWORD": "b", "S3_ACCESS_KEY": "c", "S3_SECRET_KEY": "d"}
    environ |= {"BACKUP_KEY": "e", "IDENTITY_PASSWORD": "f", "SIGNING_PASSWORD": "g", "KBR_SSE_KEY": "h"}
    with pytest.raises(KbrError) as caught:
        load_config(path, environ=environ, mode=mode)
    for line in caught.value.context["problems"]:
        assert "excludes" in line, line


def test_the_example_file_has_every_key_that_its_mode_uses() -> None:
    for mode, other in (("backup", {"target", "restore"}), ("restore", {"source", "backup"})):
        text = example_file(mode)  # type: ignore[arg-type]  # two literals in a tuple
        for key in all_keys():
            if key.path[0] not in other:
                assert re.search(rf"(?m)^ *#?{key.path[-1]}:", text), key.name


def _schema_at(schema: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    for step in path:
        schema = schema["properties"][step]
    return schema


def test_the_schema_has_exactly_the_models_keys() -> None:
    schema = json_schema()
    for key in all_keys():
        assert key.description in _schema_at(schema, key.path)["description"]
        assert _schema_at(schema, key.path[:-1])["additionalProperties"] is False

    def leaves(node: dict[str, Any]) -> int:
        return sum(leaves(child) if "properties" in child else 1 for child in node["properties"].values())

    assert leaves(schema) == len(all_keys())
