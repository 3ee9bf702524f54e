"""``kbr groups`` and the flags of backup and restore that are about groups."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from kbr.app.groups import GroupReport
from kbr.model import CommittedOffset, TopicPartition
from kbr.restore.groups import GroupPlan, GroupRow, Reason
from tests.unit.cli.test_verbs import BACKUP, RESTORE, config_of, report, run, use_case

__all__ = ["use_case"]

TARGET = ("-b", "a:1", "--storage", "/b")
PLAN = GroupReport(
    backup_id="first",
    restore_id="0" * 32,
    storage_url="/b",
    cluster_id="c",
    captured_at_ms=1_714_564_800_000,
    plan=GroupPlan(
        rows=(
            GroupRow(
                group="bill\x1b[2J", source_group="bill", partition=TopicPartition("t", 0),
                old=CommittedOffset(offset=3), new=CommittedOffset(offset=7), reason=Reason.SAME, why="that record",
            ),
            GroupRow(
                group="q", source_group="q", partition=TopicPartition("t", 1),
                old=None, new=None, reason=Reason.NOT_RESTORED, why="not restored",
            ),
        ),
        states={"bill\x1b[2J": "Empty", "q": "none"},
        active=("q",),
        failures={},
    ),
    executed=False,
    rollback="",
    failures={},
    warnings=("t: gone",),
)  # fmt: skip


def test_the_plan_shows_old_and_new_offsets_and_why(use_case: Callable[..., Mock]) -> None:
    fake = use_case("groups", "move_groups", PLAN)
    result = run("groups", "plan", "first", *TARGET, "--restore", "0" * 32, "-g", "bill*", "-g", "q", "--group-map", "q=r")
    assert result.exit_code == 0, result.stderr
    out = result.stdout
    assert out.splitlines()[2].split() == ["GROUP", "TOPIC", "PARTITION", "OLD-OFFSET", "NEW-OFFSET", "WHY"]
    assert "1 offset would change" in out
    assert "have members" in out
    assert "Warning: t: gone" in out
    assert "\x1b" not in out
    config, wish = fake.call_args.args
    assert config.backup_id == "first"
    assert config.target.bootstrap_servers == ("a:1",)
    assert (wish.patterns, dict(wish.group_mapping), wish.execute) == (("bill*", "q"), {"q": "r"}, False)
    assert fake.call_args.kwargs["restore_id"] == "0" * 32


def test_apply_plans_unless_it_is_told_to_execute(use_case: Callable[..., Mock], tmp_path: Path) -> None:
    fake = use_case("groups", "move_groups", PLAN)
    assert run("groups", "apply", "first", *TARGET).exit_code == 0
    assert fake.call_args.args[1].execute is False
    assert fake.call_args.args[1].patterns == ("*",)
    file = tmp_path / "before.json"
    run("groups", "apply", "first", *TARGET, "--execute", "--rollback-file", str(file))
    assert fake.call_args.args[1].execute is True
    assert fake.call_args.args[1].rollback_file == file
    assert fake.call_args.args[1].allow_rewind is False
    run("groups", "apply", "first", *TARGET, "--execute", "--allow-rewind")
    assert fake.call_args.args[1].allow_rewind is True
    run("groups", "apply", "first", *TARGET, KBR_RESTORE_CONSUMER_GROUPS="a,b")
    assert fake.call_args.args[1].patterns == ("a", "b")


def test_the_plan_says_how_many_offsets_would_move_back(use_case: Callable[..., Mock]) -> None:
    back = replace(PLAN.plan.rows[0], old=CommittedOffset(offset=9), why="that record; moves back")
    fake = use_case("groups", "move_groups", replace(PLAN, plan=replace(PLAN.plan, rows=(back, PLAN.plan.rows[1]))))
    out = run("groups", "plan", "first", *TARGET).stdout
    assert "1 of them would move back, which is refused without --allow-rewind." in out
    document = json.loads(run("groups", "plan", "first", *TARGET, "-o", "json").stdout)
    assert ([row["rewinds"] for row in document["rows"]], document["totals"]["rewinds"]) == ([True, False], 1)
    fake.return_value = PLAN
    assert "would move back" not in run("groups", "plan", "first", *TARGET).stdout


def test_programs_get_every_offset_of_a_plan(use_case: Callable[..., Mock]) -> None:
    use_case("groups", "move_groups", PLAN)
    document = json.loads(run("groups", "plan", "first", *TARGET, "-o", "json").stdout)
    assert document["rows"][0]["old_offset"] == 3
    assert document["rows"][0]["new_offset"] == 7
    assert document["rows"][1]["reason"] == "not_restored"
    assert document["totals"] == {"groups": 2, "offsets": 1, "changes": 1, "rewinds": 0}
    assert document["captured_at"] == "2024-05-01T12:00:00.000Z"


def test_the_export_is_the_file_and_nothing_else(use_case: Callable[..., Mock]) -> None:
    use_case("groups", "move_groups", PLAN)
    assert run("groups", "export", "first", *TARGET).stdout == "bill\x1b[2J,t,0,7\n"
    document = json.loads(run("groups", "export", "first", *TARGET, "-o", "json", "--format", "rpk").stdout)
    assert document["file"] == "t 0 7\n"


def test_the_list_shows_how_far_groups_were_behind(use_case: Callable[..., Mock]) -> None:
    listed: dict[str, Any] = {
        "backup_id": "first",
        "cluster_id": "c",
        "captured_at_ms": 1_714_564_800_000,
        "other_offsets": 4,
        "unread": {"secret": "not allowed"},
        "groups": [
            {
                "group": "g", "type": "classic", "state": "Empty", "topics": ["t"],
                "offsets": [
                    {"topic": "t", "partition": 0, "offset": 5, "lag": 1200},
                    {"topic": "t", "partition": 1, "offset": 5, "lag": None},
                ],
            }
        ],
    }  # fmt: skip
    fake = use_case("groups", "list_groups", report(listed))
    out = run("groups", "list", "first", "--storage", "/b").stdout
    assert out.splitlines()[3].split() == ["g", "classic", "Empty", "t", "2", "1,200+"]
    assert "4 offsets are of topics that are not in the backup" in out
    assert "Warning: secret could not be read: not allowed" in out
    assert fake.call_args.args[1] == "first"


def test_a_rollback_plans_unless_it_is_told_to_execute(use_case: Callable[..., Mock], tmp_path: Path) -> None:
    document = {
        "backup_id": "first", "restore_id": "0" * 32, "rollback": "somewhere", "created_at_ms": 1_714_564_800_000,
        "status": "planned", "deleted": [], "active": [], "staying": 0, "failures": {},
        "rows": [{"group": "g", "topic": "t", "partition": 0, "old_offset": 7, "new_offset": None, "why": "deleted"}],
    }  # fmt: skip
    fake = use_case("groups", "roll_groups_back", report(document))
    out = run("groups", "rollback", "first", *TARGET, "--file", str(tmp_path / "f")).stdout
    assert "Would give groups back what they had at 2024-05-01T12:00:00.000Z (somewhere):" in out
    assert out.splitlines()[3].split() == ["g", "t", "0", "7", "-", "deleted"]
    assert fake.call_args.kwargs["execute"] is False
    assert fake.call_args.kwargs["file"] == tmp_path / "f"
    run("groups", "rollback", "first", *TARGET, "--execute")
    assert fake.call_args.kwargs["execute"] is True


def test_a_backup_takes_groups_when_it_is_told_to(use_case: Callable[..., Mock]) -> None:
    counts = {"captured_at_ms": 1, "groups": 2, "offsets": 5, "other_offsets": 0, "failed": 0}
    fake = use_case("backup_run", "run_backup", report({**BACKUP, "groups": counts}))
    base = ("backup", "--backup-id", "x", *TARGET)
    assert "Kept 5 offsets of 2 consumer groups." in run(*base, "--groups").stdout
    assert config_of(fake).backup.consumer_groups == ("*",)
    fake.return_value = report({**BACKUP, "groups": {**counts, "groups": 1, "offsets": 1}})
    assert "Kept 1 offset of 1 consumer group." in run(*base, "--groups").stdout
    run(*base, "-g", "a*", "--group", "b")
    assert config_of(fake).backup.consumer_groups == ("a*", "b")
    run(*base)
    assert config_of(fake).backup.consumer_groups == ()
    assert run(*base, "--groups", "-g", "a").exit_code == 2


def test_a_restore_puts_groups_when_it_is_told_to(use_case: Callable[..., Mock]) -> None:
    fake = use_case("restore_run", "run_restore", report({**RESTORE, "groups": PLAN.to_document()}))
    base = ("restore", "--backup-id", "x", *TARGET)
    assert "OLD-OFFSET" in run(*base, "-g", "q", "--group-map", "q=r").stdout
    assert config_of(fake).restore.consumer_groups == ("q",)
    assert dict(config_of(fake).restore.group_mapping) == {"q": "r"}
    assert fake.call_args.kwargs["allow_rewind"] is False
    assert run(*base, "--groups", "--allow-rewind").exit_code == 0
    assert fake.call_args.kwargs["allow_rewind"] is True
    alone = run(*base, "--allow-rewind")
    assert (alone.exit_code, "--allow-rewind says nothing without --groups" in alone.stderr) == (2, True)
    run(*base)
    assert config_of(fake).restore.consumer_groups == ()
    for flag, value in (("--group-map", "q=r"), ("--rollback-file", "/f")):
        fake.reset_mock()
        result = run(*base, flag, value)
        assert (result.exit_code, fake.called) == (2, False)
        assert f"{flag} says nothing without --groups" in result.stderr
        assert run(*base, flag, value, "--set", "restore.consumer_groups=true").exit_code == 0


@pytest.mark.parametrize("verb", ["plan", "apply", "rollback", "export"])
def test_groups_of_a_target_need_to_know_the_target(verb: str) -> None:
    result = run("groups", verb, "first", "--storage", "/b")
    assert result.exit_code == 2
    assert "bootstrap_servers" in result.stderr
