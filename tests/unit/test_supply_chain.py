"""What kbr is made of: bounded, locked with hashes, without known weaknesses, under licences that are allowed, and listed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
#: Packages whose major numbers say nothing about what breaks: dates, or a new one every few months.
UNCAPPED = {"fsspec", "s3fs", "pyarrow", "rich"}
#: Permissive ones, and the MPL, which asks nothing of those who only use a file.
ALLOWED = {"Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "MIT", "MIT-0", "MPL-2.0", "PSF-2.0", "Python-2.0", "Unlicense", "0BSD", "Zlib"}
LOCKS = ("requirements-lock.txt", "requirements-dev-lock.txt")


def _entries(lock: str) -> dict[str, list[tuple[str, str]]]:
    """Of each package of a lock: its versions with the lines behind them."""
    found: dict[str, list[tuple[str, str]]] = {}
    for text in re.split(r"^(?=\S)", (ROOT / lock).read_text(), flags=re.MULTILINE):
        match = re.match(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^\s;\\]+)", text)
        if match:
            found.setdefault(canonicalize_name(match.group(1)), []).append((match.group(2), text))
    return found


def _wanted(*files: str) -> list[Requirement]:
    lines = [line for file in files for line in (ROOT / file).read_text().splitlines()]
    wanted = [Requirement(line) for line in lines if line and not line.startswith(("#", "-r"))]
    return [*wanted, *_dependencies()]


def _dependencies() -> list[Requirement]:
    """What pyproject.toml says; an installed kbr may be another one's."""
    text = (ROOT / "pyproject.toml").read_text()
    (block,) = re.findall(r"^dependencies = \[\n(.*?)^\]", text, flags=re.MULTILINE | re.DOTALL)
    return [Requirement(line) for line in re.findall(r'^ *"(.*)",', block, flags=re.MULTILINE)]


def test_every_dependency_has_bounds() -> None:
    assert len(_dependencies()) > 10
    for wanted in _dependencies():
        kinds = {one.operator for one in wanted.specifier}
        assert kinds & {">=", "~=", "=="}, f"{wanted}: no lower bound"
        if wanted.name not in UNCAPPED:
            assert kinds & {"<", "<=", "~=", "=="}, f"{wanted}: no upper bound"


@pytest.mark.parametrize(("lock", "files"), [(LOCKS[0], ("requirements-build.txt",)), (LOCKS[1], ("requirements-build.txt", "requirements-dev.txt"))])
def test_the_locks_hold_what_is_asked_for(lock: str, files: tuple[str, ...]) -> None:
    entries = _entries(lock)
    for wanted in _wanted(*files):
        versions = [version for version, _ in entries.get(canonicalize_name(wanted.name), [])]
        assert any(wanted.specifier.contains(version, prereleases=True) for version in versions), f"{wanted}: run scripts/lock"


@pytest.mark.parametrize("lock", LOCKS)
def test_every_locked_file_has_its_hash(lock: str) -> None:
    entries = _entries(lock)
    assert len(entries) > 30
    for name, found in entries.items():
        for version, text in found:
            assert "--hash=sha256:" in text, f"{name} {version}"
            assert "@" not in text.partition("--hash")[0], f"{name}: from an index only"


def test_both_locks_agree() -> None:
    run, dev = _entries(LOCKS[0]), _entries(LOCKS[1])
    for name, found in run.items():
        assert {version for version, _ in found} <= {version for version, _ in dev[name]}, f"{name}: run scripts/lock"


# -- known weaknesses ---------------------------------------------------------------------


def _audit(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "audit"), *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def test_no_locked_version_has_a_known_weakness() -> None:
    done = _audit()
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"0 affected, by the advisories of \d{4}-\d\d-\d\d", done.stdout)


@pytest.mark.parametrize(
    ("pin", "told"),
    [
        ("aiohttp==3.9.1", "PYSEC-2024-26 CVE-2024-23829"),
        ("aiohttp==3.9.2", ""),
        ("PyYAML==5.3", "CVE-2020-1747"),
        ("pyarrow==14.0.0", "CVE-2023-47248"),
        ("pyarrow==14.0.1", ""),
        ("urllib3==1.26.4", "CVE-2021-33503"),
    ],
)
def test_a_weakness_is_found_by_version(tmp_path: Path, pin: str, told: str) -> None:
    lock = tmp_path / "lock.txt"
    lock.write_text(f"{pin} \\\n    --hash=sha256:00\n")
    done = _audit("--lock", str(lock))
    assert done.returncode == (1 if told else 0), done.stdout + done.stderr
    assert told in done.stdout


def test_a_package_that_nobody_looked_up_is_no_good_news(tmp_path: Path) -> None:
    lock = tmp_path / "lock.txt"
    lock.write_text("never-heard-of==1.0 --hash=sha256:00\n")
    done = _audit("--lock", str(lock))
    assert done.returncode == 1
    assert "never-heard-of" in done.stderr


# -- the bill of materials ----------------------------------------------------------------


@pytest.fixture(scope="module")
def bill() -> str:
    environ = {**os.environ, "SOURCE_DATE_EPOCH": "1700000000", "PYTHONPATH": str(ROOT)}
    texts = [
        subprocess.run([sys.executable, str(ROOT / "scripts" / "sbom")], capture_output=True, text=True, timeout=60, check=True, env=environ).stdout
        for _ in range(2)
    ]
    assert texts[0] == texts[1], "the same environment, other bytes"
    return texts[0]


def test_the_bill_of_materials_is_what_its_schema_asks_for(bill: str) -> None:
    validator = JsonStrictValidator(SchemaVersion.V1_6)
    assert validator.validate_str(bill) is None
    broken = json.loads(bill)
    broken["components"][0]["type"] = "sausage"
    assert validator.validate_str(json.dumps(broken)) is not None


def test_the_bill_lists_all_that_is_needed_in_the_locked_versions(bill: str) -> None:
    document = json.loads(bill)
    assert document["metadata"]["component"]["name"] == "kbr"
    listed = {canonicalize_name(one["name"]): one["version"] for one in document["components"]}
    assert "librdkafka" in listed
    needed = {canonicalize_name(one.name) for one in _dependencies()}
    assert needed <= set(listed)
    assert {"botocore", "aiohttp", "urllib3", "pydantic-core"} <= set(listed), "what those need is in it, too"
    assert not {"pytest", "mypy", "matplotlib", "jsonschema"} & set(listed), "tools of a checkout are not"
    entries = _entries(LOCKS[0])
    for name, version in listed.items():
        if name != "librdkafka":
            assert version in [one for one, _ in entries[name]], f"{name}: run scripts/setup"
    edges = {one["ref"]: one.get("dependsOn", []) for one in document["dependencies"]}
    assert f"librdkafka@{listed['librdkafka']}" in edges[f"confluent-kafka@{listed['confluent-kafka']}"]
    assert len(edges) == len(listed) + 1


def test_every_licence_is_one_that_is_allowed(bill: str) -> None:
    document = json.loads(bill)
    for one in [*document["components"], document["metadata"]["component"]]:
        for licence in one["licenses"]:
            text = licence.get("expression") or licence["license"].get("id") or licence["license"]["name"]
            words = set(re.findall(r"[A-Za-z0-9.+-]+", text)) - {"AND", "OR", "WITH"}
            assert words <= ALLOWED, f"{one['name']}: {text}"


# -- the wheel ----------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.timeout(900)
def test_two_builds_in_two_folders_at_two_times_are_the_same_bytes(tmp_path: Path) -> None:
    """Of HEAD; what is built with is what .venv holds."""
    wheels = []
    for number, (umask, zone) in enumerate([(0o022, "UTC"), (0o077, "Asia/Tokyo")]):
        scratch = tmp_path / ("x" * (1 + 20 * number))
        scratch.mkdir()
        environ = {**os.environ, "TMPDIR": str(scratch), "TZ": zone, "HOME": str(scratch)}
        subprocess.run(
            [str(ROOT / "scripts" / "build-wheel"), str(scratch / "out")], check=True, timeout=400, env=environ, umask=umask
        )
        (wheel,) = (scratch / "out").glob("*.whl")
        wheels.append(wheel)
    assert wheels[0].name == wheels[1].name
    assert wheels[0].read_bytes() == wheels[1].read_bytes()
    assert str(tmp_path).encode() not in wheels[0].read_bytes()
