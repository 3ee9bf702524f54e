"""A restore that also puts groups: what its exit code and its document say."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from kbr.app import restore_run
from kbr.app.groups import GroupRun
from kbr.app.restore_run import RestoreRun
from kbr.errors import ClusterUnavailable, GroupActive, Incomplete, KbrError, OffsetMapMissing

RUN = GroupRun(patterns=("*",), execute=True)


def ended(exit_code: int) -> Any:
    return SimpleNamespace(
        exit_code=exit_code,
        restore_id="0" * 32,
        plan=SimpleNamespace(backup_id="b"),
        to_document=lambda: {"warnings": ["one"], "restore_id": "0" * 32},
    )


@pytest.mark.parametrize(
    ("records", "groups", "error", "expected"),
    [
        (0, None, None, 0),
        (0, 0, None, 0),
        (0, 3, None, 3),
        (0, None, GroupActive("busy"), 3),
        (0, None, OffsetMapMissing("none"), 3),
        (0, None, ClusterUnavailable("away"), 5),
        (5, None, Incomplete("no"), 5),
        (130, None, Incomplete("no"), 130),
    ],
)
def test_the_exit_code_is_that_of_the_records_and_then_of_the_groups(
    records: int, groups: int | None, error: KbrError | None, expected: int
) -> None:
    run = RestoreRun(
        records=ended(records), groups=None if groups is None else ended(groups), groups_error=error
    )
    assert run.exit_code == expected
    document = run.to_document()
    assert document["restore_id"] == "0" * 32
    assert (document["groups"] is None) == (groups is None)
    assert len(document["warnings"]) == (1 if error is None else 2)


def test_groups_are_only_put_when_all_records_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def move(*_arguments: object, restore_id: str, is_complete: bool) -> str:
        assert is_complete
        asked.append(restore_id)
        return "moved"

    monkeypatch.setattr(restore_run, "move_groups_of", move)
    nothing = cast("Any", None)
    moved, error = restore_run._move_groups(nothing, nothing, ended(3), RUN)
    assert (moved, asked) == (None, [])
    assert isinstance(error, Incomplete)
    assert restore_run._move_groups(nothing, nothing, ended(0), RUN) == (cast("Any", "moved"), None)
    assert asked == ["0" * 32]


def test_what_goes_wrong_with_groups_does_not_hide_the_restore(monkeypatch: pytest.MonkeyPatch) -> None:
    def move(*_arguments: object, restore_id: str, is_complete: bool) -> str:
        raise GroupActive("busy")

    monkeypatch.setattr(restore_run, "move_groups_of", move)
    nothing = cast("Any", None)
    moved, error = restore_run._move_groups(nothing, nothing, ended(0), RUN)
    assert moved is None
    assert isinstance(error, GroupActive)
