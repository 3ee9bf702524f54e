"""Each verb: flags to a configuration, one call, the report on standard output."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock, create_autospec

import pytest
import yaml
from click.testing import CliRunner, Result

from kbr.cli.main import cli
from kbr.config import Config

BACKUP: dict[str, Any] = {
    "time_window_start_ms": 1_714_564_800_000,
    "time_window_end_ms": None,
    "backup_id": "first",
    "storage": "/backups",
    "status": "incomplete",
    "dry_run": False,
    "continuous": False,
    "resumed": False,
    "added": {"records": 1003, "segments": 3, "raw_bytes": 2**21, "stored_bytes": 2**20, "gaps": 0},
    "created_at_ms": 1_714_564_800_000,
    "finished_at_ms": 1_714_564_802_000,
    "duration_s": 2.0,
    "phases_s": {"plan": 0.1},
    "peak_worker_rss_bytes": 200_000_000,
    "totals": {
        "topics": 2,
        "partitions": 4,
        "offsets": 1010,
        "offsets_left": 17,
        "records": 1003,
        "raw_bytes": 2**21,
        "stored_bytes": 2**20,
        "segments": 3,
    },
    "topics": [
        {
            "topic": "orders",
            "partitions": 3,
            "offsets": 1000,
            "offsets_left": 10,
            "records": 1000,
            "raw_bytes": 2**20,
            "stored_bytes": 2**19,
            "segments": 2,
            "gaps": [{"partition": 1, "start_offset": 0, "end_offset_exclusive": 5, "reason": "retention"}],
            "failed": [],
        },
        {
            "topic": "x\x1b[2J",
            "partitions": 1,
            "offsets": 10,
            "offsets_left": 7,
            "records": 3,
            "raw_bytes": 2**20,
            "stored_bytes": 2**19,
            "segments": 1,
            "gaps": [],
            "failed": [{"partition": 0, "error": "leader not available"}],
        },
    ],
    "groups": None,
    "warnings": ["x: 1 of 1 partitions failed"],
}
RESTORE: dict[str, Any] = {
    "backup_id": "first",
    "storage": "/backups",
    "status": "planned",
    "dry_run": True,
    "duration_s": 2.0,
    "phases_s": {},
    "peak_worker_rss_bytes": 0,
    "plan": {
        "segments": 3,
        "blocks": 12,
        "records": 1003,
        "records_exact": False,
        "raw_bytes": 2**21,
        "stored_bytes": 2**20,
        "time_window_start_ms": 1_714_564_800_000,
        "time_window_end_ms": None,
        "offset_windows": [{"topic": "orders", "partition": 0, "start_offset": 100, "end_offset": None}],
        "topics_to_create": [
            {"topic": "orders-2", "partitions": 3, "replication_factor": 2, "configs": {"retention.ms": "-1"}}
        ],
    },
    "topics": [
        {
            "topic": "orders",
            "target": "orders-2",
            "partitions": 3,
            "segments": 3,
            "stored_bytes": 2**20,
            "records": 0,
            "bytes": 0,
            "failed": [],
        }
    ],
    "totals": {
        "topics": 1,
        "partitions": 3,
        "records": 0,
        "records_exact": True,
        "already_there": 0,
        "gone": 0,
        "bytes": 0,
        "changed_timestamps": 0,
    },
    "warnings": ["retention is short"],
    "retries": 0,
    "failures": {},
    "groups": None,
}


def report(document: dict[str, Any], exit_code: int = 0) -> SimpleNamespace:
    return SimpleNamespace(to_document=lambda: document, exit_code=exit_code)


def run(*arguments: str, **environ: str) -> Result:
    return CliRunner().invoke(cli, list(arguments), env=dict(environ))


@pytest.fixture
def use_case(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str, SimpleNamespace], Mock]:
    """Puts a stand-in with the same parameters in the place of a use case."""

    def replace(module: str, name: str, result: SimpleNamespace) -> Mock:
        real = getattr(import_module(f"kbr.app.{module}"), name)
        fake: Mock = create_autospec(real, return_value=result)
        monkeypatch.setattr(f"kbr.app.{module}.{name}", fake)
        return fake

    return replace


def config_of(fake: Mock) -> Config:
    config = fake.call_args.args[0]
    assert isinstance(config, Config)
    return config


def test_backup_flags_reach_the_use_case(use_case: Callable[..., Mock]) -> None:
    fake = use_case("backup_run", "run_backup", report(BACKUP, 3))
    result = run(
        *"backup -b a:9092,b:9092 --backup-id first -t orders -t pay-*,x --exclude-topic *-tmp --storage /backups".split(),
        *"--workers 3 --set backup.segment_max_bytes=1MiB -X fetch.min.bytes=7 --dry-run -q".split(),
    )
    assert result.exit_code == 3, result.stderr
    config = config_of(fake)
    assert config.source.bootstrap_servers == ("a:9092", "b:9092")
    assert config.source.topics.include == ("orders", "pay-*", "x")
    assert config.source.topics.exclude == ("*-tmp",)
    assert config.storage.location == "/backups"
    assert config.backup.workers == 3
    assert config.backup.segment_max_bytes == 2**20
    assert dict(config.source.client) == {"fetch.min.bytes": "7"}
    assert fake.call_args.kwargs["dry_run"] is True
    assert fake.call_args.kwargs["progress"] is None


@pytest.mark.parametrize("flag", ["-b", "--bootstrap-server", "--bootstrap-servers"])
def test_every_spelling_of_the_brokers_flag_is_known(use_case: Callable[..., Mock], flag: str) -> None:
    fake = use_case("backup_run", "run_backup", report(BACKUP))
    assert run("backup", flag, "a:9092", "--backup-id", "x", "--storage", "/b").exit_code == 0
    assert config_of(fake).source.bootstrap_servers == ("a:9092",)


def test_a_file_and_variables_reach_the_use_case(use_case: Callable[..., Mock], tmp_path: Path) -> None:
    path = tmp_path / "kbr.yaml"
    path.write_text("backup_id: a\nsource: {bootstrap_servers: 'k:1'}\nstorage: {url: /b}\n", encoding="utf-8")
    fake = use_case("backup_run", "run_backup", report(BACKUP))
    assert run("backup", "-c", str(path), KBR_BACKUP_WORKERS="2").exit_code == 0
    assert config_of(fake).backup.workers == 2
    assert run("backup", KBR_CONFIG=str(path)).exit_code == 0
    assert fake.call_args.kwargs["progress"] is not None


def test_the_backup_table_tells_what_is_missing(use_case: Callable[..., Mock]) -> None:
    use_case("backup_run", "run_backup", report(BACKUP, 3))
    out = run("backup", "-b", "a:1", "--backup-id", "first", "--storage", "/backups").stdout
    assert "Backup first at /backups: incomplete" in out
    assert out.splitlines()[3].split() == ["TOPIC", "PARTITIONS", "RECORDS", "ENCODED", "STORED", "SEGMENTS", "PROBLEMS"]
    assert "1 gap" in out
    assert "1 gaps" not in out
    assert "1 failed (0: leader not available)" in out
    assert "1,003" in out
    assert "Took 2.0 s (1.0 MiB/s encoded)." in out
    assert "Warning: x: 1 of 1 partitions failed" in out
    assert "\x1b" not in out


def test_a_planned_backup_shows_offsets(use_case: Callable[..., Mock]) -> None:
    use_case("backup_run", "run_backup", report({**BACKUP, "dry_run": True, "status": "planned"}))
    out = run("backup", "-n", "-b", "a:1", "--backup-id", "first", "--storage", "/backups").stdout
    assert "Would back up to first at /backups:" in out
    assert "From 2024-05-01T12:00:00.000Z (" in out
    head, *_rows, total = [line.split() for line in out.splitlines() if line.startswith(("TOPIC", "total"))]
    assert head == ["TOPIC", "PARTITIONS", "OFFSETS", "LEFT", "TO", "READ", "PROBLEMS"]
    assert total == ["total", "4", "1,010", "17"]


def test_a_planned_backup_of_one_that_is_there_says_that_it_goes_on(use_case: Callable[..., Mock]) -> None:
    use_case("backup_run", "run_backup", report({**BACKUP, "dry_run": True, "status": "planned", "resumed": True}))
    out = run("backup", "-n", "-b", "a:1", "--backup-id", "first", "--storage", "/backups").stdout
    assert "Would go on with backup first at /backups:" in out


@pytest.mark.parametrize("output", ["json", "yaml"])
def test_programs_get_the_backup_report(use_case: Callable[..., Mock], output: str) -> None:
    use_case("backup_run", "run_backup", report(BACKUP, 3))
    result = run("backup", "-b", "a:1", "--backup-id", "first", "--storage", "/backups", "-o", output)
    parsed = json.loads(result.stdout) if output == "json" else yaml.safe_load(result.stdout)
    assert parsed["schema_version"] == 1
    assert parsed["exit_code"] == result.exit_code == 3
    assert parsed["created_at"] == "2024-05-01T12:00:00.000Z"
    assert parsed["topics"][1]["topic"] == "x\x1b[2J"


def test_restore_flags_reach_the_use_case(use_case: Callable[..., Mock]) -> None:
    fake = use_case("restore_run", "run_restore", report(RESTORE))
    result = run(
        *"restore -b a:9092 --backup-id first -t orders --exclude-topic x --storage s3://b/p --workers 2 --append -n".split(),
        *"--from-timestamp 2024-05-01T12:00:00Z --to-timestamp 1714564800001".split(),
        *"--topic-map orders=orders-2 --topic-map a=b,c=d --partition-map orders:0=3 --partition-map o.x:1=0".split(),
        *"--offsets orders:0=100-200,orders:1=-9 --offsets o.x:2=7-".split(),
        *"-X linger.ms=1 --set restore.compression=zstd".split(),
    )
    assert result.exit_code == 0, result.stderr
    config = config_of(fake)
    assert config.target.bootstrap_servers == ("a:9092",)
    assert config.target.topics.include == ("orders",)
    assert config.target.topics.exclude == ("x",)
    assert dict(config.target.client) == {"linger.ms": "1"}
    restore = config.restore
    assert restore.workers == 2
    assert restore.append is True
    assert (restore.time_window_start, restore.time_window_end) == (1_714_564_800_000, 1_714_564_800_001)
    assert dict(restore.topic_mapping) == {"orders": "orders-2", "a": "b", "c": "d"}
    assert {topic: dict(moves) for topic, moves in restore.partition_mapping.items()} == {
        "orders": {0: 3},
        "o.x": {1: 0},
    }
    assert {topic: dict(windows) for topic, windows in restore.offset_windows.items()} == {
        "orders": {0: "100-200", 1: "-9"},
        "o.x": {2: "7-"},
    }
    assert restore.compression == "zstd"
    assert fake.call_args.kwargs["dry_run"] is True


def test_the_last_hours_of_a_restore_are_an_instant_that_is_told(use_case: Callable[..., Mock]) -> None:
    fake = use_case("restore_run", "run_restore", report(RESTORE))
    before_ms = int(time.time() * 1000)
    result = run("restore", "-b", "a:1", "--backup-id", "x", "--storage", "/b", "--last", "24h")
    start = config_of(fake).restore.time_window_start
    assert before_ms - 86_400_000 <= start <= time.time() * 1000 - 86_400_000
    assert f"--last 24h is --from-timestamp {start}" in result.stderr


@pytest.mark.parametrize(
    ("flags", "what"),
    [
        (["--last", "24h", "--from-timestamp", "0"], "exclude each other"),
        (["--last", "soon"], "--last must be a duration"),
        (["--offsets", "orders=1-2"], "--offsets takes TOPIC:0=FROM-TO"),
        (["--offsets", "orders:0=9-8"], "ends before it begins"),
        (["--offsets", "orders:0=1-2", "--offsets", "orders:0=1-3"], "twice"),
    ],
)
def test_windows_that_make_no_sense_are_refused(use_case: Callable[..., Mock], flags: list[str], what: str) -> None:
    use_case("restore_run", "run_restore", report(RESTORE))
    result = run("restore", "-b", "a:1", "--backup-id", "x", "--storage", "/b", *flags)
    assert result.exit_code == 2
    assert what in result.stderr


def test_append_is_off_unless_asked_for_and_the_file_may_ask(use_case: Callable[..., Mock]) -> None:
    fake = use_case("restore_run", "run_restore", report(RESTORE))
    base = ["restore", "-b", "a:1", "--backup-id", "x", "--storage", "/b"]
    run(*base)
    assert config_of(fake).restore.append is False
    run(*base, KBR_RESTORE_APPEND="true")
    assert config_of(fake).restore.append is True


def test_the_restore_plan_shows_what_will_be_done(use_case: Callable[..., Mock]) -> None:
    use_case("restore_run", "run_restore", report(RESTORE))
    out = run("restore", "-n", "-b", "a:1", "--backup-id", "x", "--storage", "/b").stdout
    assert "From 2024-05-01T12:00:00.000Z (" in out
    assert "Of orders[0] offsets 100 on" in out
    assert "local time)" in out
    assert "Reads 3 segments, 12 blocks (1.0 MiB stored); restores at most 1,003 records (2.0 MiB encoded)." in out
    assert "Topics to create:" in out
    assert "retention.ms=-1" in out
    assert "Warning: retention is short" in out


def test_the_restore_result_names_failures(use_case: Callable[..., Mock]) -> None:
    topic = {**RESTORE["topics"][0], "records": 7, "bytes": 1024, "failed": ["orders[1]"]}
    document = {
        **RESTORE,
        "dry_run": False,
        "status": "incomplete",
        "topics": [topic],
        "totals": {**RESTORE["totals"], "records_exact": False},
        "failures": {"orders[1]": "no leader"},
    }
    use_case("restore_run", "run_restore", report(document, 3))
    result = run("restore", "-b", "a:1", "--backup-id", "x", "--storage", "/b")
    assert result.exit_code == 3
    assert "Restore of backup first at /backups: incomplete" in result.stdout
    assert "1 failed" in result.stdout
    assert "Failed: orders[1]: no leader" in result.stdout
    assert "at least so many records are in the target" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--topic-map", "orders"], "--topic-map takes SRC=DST, not 'orders'"),
        (["--topic-map", "a=b", "--topic-map", "a=c"], "--topic-map maps a twice, to b and to c"),
        (["--partition-map", "orders=3"], "--partition-map takes TOPIC:0=3, not 'orders=3'"),
        (["--partition-map", "orders:x=3"], "--partition-map takes TOPIC:0=3, not 'orders:x=3'"),
        (["-X", "linger.ms"], "-X takes PROPERTY=VALUE, not 'linger.ms'"),
        (["-X", "sasl.password=hunter2"], "is a secret"),
        (["--set", "target.security.password=hunter2"], "is a secret"),
        (["--from-timestamp", "1714564800"], "looks like seconds"),
        (["--workers", "x"], "not a valid integer"),
        (["--stats", "60"], "is no duration such as 60s"),
    ],
)
def test_wrong_flags_are_exit_code_2(arguments: list[str], message: str) -> None:
    result = run("restore", "-b", "a:1", "--backup-id", "x", "--storage", "/b", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "hunter2" not in result.stderr


def test_list_shows_every_backup_and_why_one_can_not_be_read(use_case: Callable[..., Mock]) -> None:
    good = {
        "backup_id": "a",
        "status": "complete",
        "lock_held": None,
        "made_by": "kbr",
        "encrypted": False,
        "error": None,
        "created_at": "2024-05-01T12:00:00.000Z",
        "created_at_ms": 1_714_564_800_000,
        "topics": 2,
        "partitions": 4,
        "segments": 3,
        "gaps": 0,
        "records": 1003,
        "raw_bytes": 2**21,
        "stored_bytes": 2**20,
        "min_timestamp_ms": 0,
        "max_timestamp_ms": None,
    }
    bad = {**dict.fromkeys(good), "backup_id": "b", "status": "unreadable", "error": "manifest cut in half"}
    left = {**good, "backup_id": "c", "status": "running", "lock_held": False, "made_by": "OSO kafka-backup"}
    fake = use_case("inspect", "list_backups", report({"backups": [good, bad, left]}))
    result = run("ls", "--storage", "/backups")
    assert result.exit_code == 0, result.stderr
    assert config_of(fake).storage.location == "/backups"
    assert "1,003" in result.stdout
    assert "b: manifest cut in half" in result.stdout
    assert "c: running, but nobody holds its lock: it ended without saying so" in result.stdout
    assert "c: made by OSO kafka-backup" in result.stdout
    assert "a: made by" not in result.stdout
    parsed = json.loads(run("list", "--storage", "/backups", "-o", "json").stdout)
    assert [one["backup_id"] for one in parsed["backups"]] == ["a", "b", "c"]


@pytest.mark.parametrize(("encrypted", "words"), [((False, False), None), ((False, True), ["no", "yes"])])
def test_list_has_a_column_of_what_is_encrypted_where_something_is(
    use_case: Callable[..., Mock], encrypted: tuple[bool, bool], words: list[str] | None
) -> None:
    one = dict.fromkeys(("error", "created_at_ms", "topics", "partitions", "records", "stored_bytes"))
    one |= dict.fromkeys(("min_timestamp_ms", "max_timestamp_ms", "lock_held", "made_by"))
    backups = [
        {**one, "backup_id": name, "status": "complete", "encrypted": is_so} for name, is_so in zip("ab", encrypted)
    ]
    use_case("inspect", "list_backups", report({"backups": backups}))
    head, *rows = [line.split() for line in run("list", "--storage", "/backups").stdout.splitlines() if line.strip()]
    assert (head[-1] == "ENCRYPTED") is (words is not None)
    if words is not None:
        assert [row[-1] for row in rows if row[0] in {"a", "b"}] == words


def test_an_empty_store_is_no_error(use_case: Callable[..., Mock]) -> None:
    use_case("inspect", "list_backups", report({"backups": []}))
    result = run("list", "--storage", "/backups")
    assert (result.exit_code, result.stdout) == (0, "No backups there.\n")


TOTALS: dict[str, Any] = {
    "partitions": 2,
    "failed_partitions": 1,
    "segments": 1,
    "records": 5,
    "raw_bytes": 100,
    "stored_bytes": 50,
    "gaps": 1,
    "min_timestamp_ms": 0,
    "max_timestamp_ms": 5,
}
DESCRIBE: dict[str, Any] = {
    "backup_id": "a",
    "status": "incomplete",
    "lock_held": None,
    "encrypted": False,
    "distrusted": None,
    "made_by": "kbr",
    "notes": [],
    "created_at_ms": 0,
    "finished_at_ms": None,
    "format_version": 1,
    "kbr_version": "0.1.0",
    "compression": "zstd",
    "source": {
        "cluster_id": "cid",
        "brokers": ["k:9092"],
        "isolation_level": "read_committed",
        "time_window_start_ms": 1_714_564_800_000,
        "time_window_end_ms": None,
    },
    "totals": TOTALS,
    "failures": [
        {
            "topic": "t",
            "partition": 1,
            "status": "failed",
            "next_offset": 3,
            "end_offset_exclusive": 9,
            "error": "no leader",
        }
    ],
    "topics": [
        {
            "topic": "t",
            "totals": TOTALS,
            "partitions": [
                {
                    "partition": 0,
                    "gaps": [{"start_offset": 1, "end_offset_exclusive": 3, "reason": "retention", "detail": ""}],
                }
            ],
        }
    ],
    "restores": [
        {
            "restore_id": "ab" * 16,
            "status": "complete",
            "error": None,
            "cluster_id": "target-cluster",
            "created_at_ms": 1_714_564_800_000,
            "updated_at_ms": 1_714_564_800_000,
            "target_topics": ["t-restored"],
            "has_offset_map": True,
            "lock_held": None,
        },
        {**dict.fromkeys(["created_at_ms", "updated_at_ms"]), "restore_id": "cd" * 16, "status": "unreadable",
         "error": "state cut in half", "cluster_id": "", "target_topics": [], "has_offset_map": False, "lock_held": None},
        {**dict.fromkeys(["created_at_ms", "updated_at_ms"]), "restore_id": "ef" * 16, "status": "running",
         "error": None, "cluster_id": "", "target_topics": [], "has_offset_map": False, "lock_held": False},
    ],
}


def test_describe_shows_what_is_missing(use_case: Callable[..., Mock]) -> None:
    fake = use_case("inspect", "describe_backup", report(DESCRIBE))
    result = run("describe", "--storage", "/backups", "a")
    assert result.exit_code == 0, result.stderr
    assert fake.call_args.args[1] == "a"
    assert "Source:    cid (k:9092), read_committed" in result.stdout
    assert "From:      2024-05-01T12:00:00.000Z (" in result.stdout
    assert "To:" not in result.stdout
    assert "Failed: t[1]: reached offset 3 of 9: no leader" in result.stdout
    assert "Gap: t[0]: offsets 1 to 2 (retention)" in result.stdout
    assert "target-cluster  yes             t-restored" in result.stdout
    assert f"{'cd' * 16}: state cut in half" in result.stdout
    assert f"{'ef' * 16}: running, but nobody holds its lock: it has not come to its end" in result.stdout
    assert result.stdout.count("nobody holds its lock") == 1


@pytest.mark.parametrize("restores", [[], None])
def test_describe_says_nothing_of_restores_where_there_are_none_or_they_can_t_be_listed(
    use_case: Callable[..., Mock], restores: list[Any] | None
) -> None:
    use_case("inspect", "describe_backup", report({**DESCRIBE, "restores": restores}))
    result = run("describe", "--storage", "/backups", "a")
    assert result.exit_code == 0, result.stderr
    assert "RESTORE" not in result.stdout


def test_describe_says_when_a_run_is_gone(use_case: Callable[..., Mock]) -> None:
    use_case("inspect", "describe_backup", report({**DESCRIBE, "status": "running", "lock_held": False}))
    assert "Status:    running, but nobody holds its lock" in run("describe", "a", "--storage", "/backups").stdout


def test_another_tools_backup_is_told_as_such(use_case: Callable[..., Mock]) -> None:
    foreign = {**DESCRIBE, "made_by": "OSO kafka-backup", "notes": ["kbr only reads it", "and more"], "kbr_version": ""}
    use_case("inspect", "describe_backup", report(foreign))
    said = run("describe", "a", "--storage", "/backups").stdout
    assert "Stored as: zstd, by OSO kafka-backup" in said
    assert said.endswith("Note: kbr only reads it\nNote: and more\n")


def test_describe_takes_the_configurations_backup_id(use_case: Callable[..., Mock]) -> None:
    fake = use_case("inspect", "describe_backup", report(DESCRIBE))
    assert run("info", "--storage", "/backups", KBR_BACKUP_ID="from-env").exit_code == 0
    assert fake.call_args.args[1] == "from-env"
    assert run("show", "--storage", "/backups").exit_code == 2


RUN: dict[str, Any] = {
    "pid": 7,
    "verb": "backup",
    "backup_id": "nightly",
    "started_at_ms": 0,
    "elapsed_s": 75.0,
    "records": 1000,
    "total_records": 2000,
    "raw_bytes": 2**20,
    "records_per_s": 0.0,
    "bytes_per_s": 0.0,
    "eta_s": None,
    "rate_limit": {"bytes_per_s": None, "records_per_s": None},
    "limited_bytes": 0,
    "limited_records": 0,
    "doing": "waiting for Kafka",
    "lag_records": 1234,
    "topic_count": 40,
    "topics": [
        {"topic": f"t{number}", "partitions": 3, "next_offset": 5000, "high_watermark": 6234, "lag_records": 1234}
        for number in range(30)
    ],
}


def test_status_shows_what_a_backup_does_and_the_topics_behind(use_case: Callable[..., Mock]) -> None:
    restore = {**RUN, "verb": "restore", "doing": None, "lag_records": None, "topic_count": None, "topics": []}
    use_case("status", "running", report({"runs": [RUN, restore]}))
    out = run("status").stdout
    assert "Backup nightly (pid 7): waiting for Kafka; at most 1,234 records behind" in out
    assert out.count("waiting for") == 1
    row = next(line.split() for line in out.splitlines() if line.startswith("t0 "))
    assert row == ["t0", "3", "5,000", "6,234", "1,234"]
    assert "t19" in out
    assert "t20" not in out
    assert "and 20 more topics" in out


VERIFY: dict[str, Any] = {
    "backup_id": "a",
    "deep": True,
    "presence_only": False,
    "encrypted": False,
    "signature_checked": False,
    "undamaged": False,
    "objects": 3,
    "bytes": 2**20,
    "blocks": 12,
    "records": 1003,
    "errors": [{"object": "a/topics/t/partition=0/segment-1.zst", "position": 17, "what": "CRC differs"}],
    "notes": ["t[0]: 1 gap"],
}


def test_verify_names_the_damage_and_passes_its_exit_code(use_case: Callable[..., Mock]) -> None:
    fake = use_case("inspect", "verify_backup", report(VERIFY, 4))
    result = run("verify", "--storage", "/backups", "a", "--deep")
    assert result.exit_code == 4
    assert fake.call_args.kwargs["deep"] is True
    assert "Backup a: DAMAGED. Checked 3 segments (1.0 MiB), 12 blocks, 1,003 records." in result.stdout
    assert "CRC differs" in result.stdout
    assert "Note: t[0]: 1 gap" in result.stdout


def test_verify_of_a_good_backup_says_so(use_case: Callable[..., Mock]) -> None:
    use_case(
        "inspect",
        "verify_backup",
        report({**VERIFY, "undamaged": True, "errors": [], "blocks": None, "records": None, "notes": []}),
    )
    result = run("check", "--storage", "/backups", "a")
    assert (result.exit_code, result.stdout) == (0, "Backup a: good. Checked 3 segments (1.0 MiB).\n")


def test_config_check_says_for_what_a_file_is_good(use_case: Callable[..., Mock], tmp_path: Path) -> None:
    path = tmp_path / "kbr.yaml"
    path.write_text("storage: {url: /b}\n", encoding="utf-8")
    use_case(
        "check",
        "check_config",
        report({"ok": True, "verbs": ["list", "verify"], "storage": "/b", "librdkafka": "2.16"}),
    )
    result = run("config", "check", str(path))
    assert result.exit_code == 0, result.stderr
    assert "good for: kbr list, kbr verify." in result.stdout


def test_config_check_lists_all_mistakes_with_lines(tmp_path: Path) -> None:
    path = tmp_path / "kbr.yaml"
    path.write_text("storage: {url: /b}\nbackup:\n  workers: x\n  compresion: zstd\n", encoding="utf-8")
    for arguments in (["config", "check", str(path)], ["config", "check", "-c", str(path)]):
        result = run(*arguments)
        assert result.exit_code == 2
        assert f"{path}:3:3: key backup.workers: must be a whole number, not 'x'" in result.stderr
        assert f"{path}:4:3: key backup.compresion: unknown key. did you mean 'compression'?" in result.stderr


def test_config_check_for_a_verb_names_what_it_lacks(tmp_path: Path) -> None:
    path = tmp_path / "kbr.yaml"
    path.write_text("storage: {url: /b}\n", encoding="utf-8")
    result = run("config", "check", "--mode", "restore", str(path))
    assert result.exit_code == 2
    assert "target.bootstrap_servers: is missing" in result.stderr


def test_config_show_has_origins_and_no_secrets(tmp_path: Path) -> None:
    path = tmp_path / "kbr.yaml"
    path.write_text("storage: {url: 's3://b', access_key: AKIA, secret_key: '${S}'}\n", encoding="utf-8")
    result = run("config", "show", "--origin", str(path), S="hunter2", KBR_BACKUP_WORKERS="3")
    assert result.exit_code == 0, result.stderr
    assert "hunter2" not in result.stdout
    assert "AKIA" not in result.stdout
    assert "<redacted>" in result.stdout
    assert f"{path}:1:" in result.stdout
    assert "KBR_BACKUP_WORKERS" in result.stdout
    parsed = json.loads(run("config", "show", str(path), "--origin", "-o", "json", S="hunter2").stdout)
    assert parsed["config"]["storage"]["secret_key"] == "<redacted>"
    assert parsed["origins"]["storage.url"] == f"{path}:1:11"


def test_config_init_prints_a_file_that_config_check_likes(use_case: Callable[..., Mock], tmp_path: Path) -> None:
    use_case("check", "check_config", report({"ok": True, "verbs": ["backup"], "storage": "/b", "librdkafka": "2"}))
    for mode in ("backup", "restore"):
        path = tmp_path / f"{mode}.yaml"
        path.write_text(run("config", "init", "--mode", mode).stdout, encoding="utf-8")
        assert run("config", "check", str(path), "--mode", mode).exit_code == 0


DEMO: dict[str, Any] = {
    "status": "identical",
    "directory": "/tmp/demo",
    "duration_s": 3.0,
    "raw_bytes": 2**20,
    "stored_bytes": 2**18,
    "time_window_start_ms": 0,
    "time_window_end_ms": 5,
    "steps": ["Started a broker."],
    "topics": [
        {
            "topic": "orders",
            "partitions": 3,
            "produced": 10,
            "backed_up": 10,
            "restored": 10,
            "restored_window": 4,
            "verified": True,
        }
    ],
}


def test_demo_shows_a_table(use_case: Callable[..., Mock]) -> None:
    fake = use_case("demo", "run_demo", report(DEMO))
    result = run("demo", "--directory", "/tmp/demo", "-q")
    assert result.exit_code == 0, result.stderr
    assert fake.call_args.kwargs["directory"] == Path("/tmp/demo")
    assert "1. Started a broker." in result.stdout
    assert "orders" in result.stdout
    assert "kbr list --storage /tmp/demo" in result.stdout
