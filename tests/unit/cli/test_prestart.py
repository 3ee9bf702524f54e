"""Workers' modules are guessed before the configuration is read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kbr.app import prestart


@pytest.mark.parametrize(
    ("text", "settings", "is_s3"),
    [
        ("storage: {path: /backups}", [], False),
        ("storage: {backend: S3, bucket: b}", [], True),
        ("storage: {backend: ceph, bucket: b}", [], True),
        (None, ["./backups", None], False),
        (None, ["s3://bucket/prefix"], True),
        (None, [None, "storage.url=s3://bucket"], True),
    ],
)
def test_s3_is_guessed_from_whatever_may_name_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, settings: list[str | None], is_s3: bool
) -> None:
    started: list[tuple[str, ...]] = []
    monkeypatch.setattr(prestart, "prestart", lambda modules, withheld: started.append(tuple(modules)))
    path = tmp_path / "kbr.yaml"
    if text is not None:
        path.write_text(text)
    prestart.prestart_workers("backup", config_path=None if text is None else path, settings=settings)
    (modules,) = started
    assert modules[0] == "kbr.backup.task"
    assert ("kbr.storage.s3" in modules) is is_s3


def test_a_configuration_that_can_be_read_only_once_or_not_at_all_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[object] = []
    monkeypatch.setattr(prestart, "prestart", lambda modules, withheld: started.append(modules))
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "absent", ".", "x" * 5000):
        prestart.prestart_workers("restore", config_path=tmp_path / name, settings=[])
    assert started == [], "which variables hold secrets is not known yet"


def test_variables_that_the_configuration_refers_to_are_withheld(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[set[str]] = []
    monkeypatch.setattr(prestart, "prestart", lambda modules, withheld: seen.append(set(withheld)))
    path = tmp_path / "kbr.yaml"
    path.write_text("#" * 100_000 + "\nstorage: {path: '${ONE}/x', secret_key: '${TWO:-${no}'}\na: $THREE ${file:/x} ${ 4}\n")
    prestart.prestart_workers("backup", config_path=path, settings=["${FIVE}"])
    assert seen == [{"ONE", "TWO", "no", "FIVE"}]

