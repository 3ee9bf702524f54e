"""``kbr offsets`` on a folder: sums, ranges, look-ups, exports, and which restore is meant."""

from __future__ import annotations

import csv
import io
import json
from array import array
from pathlib import Path
from unittest.mock import patch

import pytest
from click.testing import CliRunner, Result

from kbr.cli.main import cli
from kbr.format.data_keys import KeySecrets, symmetric_id
from kbr.format.offset_map import OffsetMapHeader
from kbr.format.restore_state import RestoredTopic, RestoreState, RestoreStatus
from kbr.model import TopicPartition
from kbr.repository.backup_keys import Trust
from kbr.repository.layout import offset_map_key, restore_state_key
from kbr.repository.offset_maps import new_offset_map
from kbr.repository.publish import publish_manifest
from kbr.repository.restore_states import save_state
from kbr.repository.sealed_store import seal_over
from kbr.repository.sealing import begin_backup
from kbr.storage import ObjectStore
from kbr.storage.local import LocalStore
from tests.support.backups import manifest_of, partition_of, topic_of

ONE, TWO = "1" * 32, "12" * 16
ROWS = [
    ("a", 0, 5, "x", 1, 0, 3),
    ("a", 0, 10, "x", 1, 3, 1),
    ("a", 2, 0, "x", 2, 100, 9),
    ("b", 0, 7, "y", 0, 0, 1),
]


def note(store: ObjectStore, restore_id: str, *, created_at_ms: int = 1_714_564_800_000) -> None:
    topic = RestoredTopic(name=f"to-{restore_id[:2]}", topic_id="", made=True, configs_afterwards={}, bases=(0,))
    save_state(
        store,
        RestoreState(
            kbr_version="1", backup_id="b", restore_id=restore_id, cluster_id="cluster", topics=(topic,),
            status=RestoreStatus.COMPLETE, created_at_ms=created_at_ms, updated_at_ms=created_at_ms,
        ),
    )  # fmt: skip


def write(store: ObjectStore, restore_id: str, rows: list[tuple[str, int, int, str, int, int, int]] = ROWS) -> None:
    header = OffsetMapHeader(
        kbr_version="1", backup_id="b", restore_id=restore_id, cluster_id="cluster", created_at_ms=1_714_565_000_000
    )
    with new_offset_map(store, header) as writer:
        for topic, partition, start, target, number, target_start, count in rows:
            writer.add(
                TopicPartition(topic, partition),
                TopicPartition(target, number),
                target_start,
                array("q", [start]).tobytes(),
                array("q", [count]).tobytes(),
            )


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    """A backup that was restored once."""
    store = LocalStore(str(tmp_path))
    publish_manifest(store, manifest_of([topic_of("a", [])], backup_id="b"))
    note(store, ONE)
    write(store, ONE)
    return store


def run(store: LocalStore, *arguments: str) -> Result:
    return CliRunner().invoke(cli, ["offsets", *arguments, "--storage", store.url.removeprefix("file://")])


def shown(store: LocalStore, *arguments: str) -> dict:
    result = run(store, "show", "b", *arguments, "-o", "json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_show_sums_up_each_partition(store: LocalStore) -> None:
    mapping = shown(store)["mapping"]
    assert (mapping["restore_id"], mapping["ranges"], mapping["records"]) == (ONE, 4, 14)
    assert [tuple(one.values()) for one in mapping["partitions"]] == [
        ("a", 0, "x", 1, 2, 4, 5, 11, 0, 4),
        ("a", 2, "x", 2, 1, 9, 0, 9, 100, 109),
        ("b", 0, "y", 0, 1, 1, 7, 8, 0, 1),
    ]
    text = run(store, "show", "b").stdout
    assert "14 records in 4 ranges." in text
    assert "a[2]" in text
    assert "100 to 108" in text
    assert "a[0]" not in run(store, "show", "b", "-t", "b").stdout


def test_show_of_one_partition_lists_its_first_ranges(store: LocalStore) -> None:
    mapping = shown(store, "-t", "a", "-p", "0")["mapping"]
    assert [(one["source_start"], one["target_start"], one["count"]) for one in mapping["shown"]] == [(5, 0, 3), (10, 3, 1)]
    with patch("kbr.app.offsets.MAX_SHOWN", 1):
        assert "And 1 more: kbr offsets export." in run(store, "show", "b", "-t", "a", "-p", "0").stdout


def test_an_offset_is_looked_up(store: LocalStore) -> None:
    assert shown(store, "-t", "a", "-p", "0", "--offset", "6")["mapping"]["lookup"] == {
        "source_offset": 6,
        "target": {"topic": "x", "partition": 1, "offset": 1},
        "first_at_or_after": [{"topic": "x", "partition": 1, "offset": 1}],
    }
    text = run(store, "show", "b", "-t", "a", "-p", "0", "--offset", "8").stdout
    assert "Source offset 8: not restored." in text
    assert "goes on at: x[1] offset 3." in text
    publish_manifest(store, manifest_of([topic_of("zz", [partition_of()])], backup_id="b"))
    nothing = run(store, "show", "b", "-t", "zz", "-p", "0", "--offset", "8").stdout
    assert "goes on at: -." in nothing


def test_an_export_has_every_range_in_each_form(store: LocalStore) -> None:
    lines = run(store, "export", "b").stdout
    assert lines.startswith("source_topic,source_partition,source_start,target_topic,target_partition,target_start,count\n")
    found = [tuple(row.values()) for row in csv.DictReader(io.StringIO(lines))]
    assert found == [tuple(map(str, row)) for row in ROWS]
    for chunk in (1, 3, 5000):
        with patch("kbr.cli.offsets_cmd._CHUNK", chunk):
            document = json.loads(run(store, "export", "b", "-o", "json").stdout)
            assert [tuple(one.values()) for one in document["ranges"]] == ROWS
            assert (document["backup_id"], document["restore_id"]) == ("b", ONE)
            assert run(store, "export", "b", "-o", "csv").stdout == lines
    table = run(store, "export", "b", "-o", "table", "-t", "a").stdout
    assert table.splitlines()[0].split("  ")[0] == "SOURCE TOPIC"
    assert len(table.splitlines()) == 4
    assert run(store, "export", "b", "-t", "a", "-p", "2").stdout.splitlines()[1:] == ["a,2,0,x,2,100,9"]


def test_an_export_of_nothing_is_well_formed(store: LocalStore) -> None:
    publish_manifest(store, manifest_of([topic_of("a", []), topic_of("none", [])], backup_id="b"))
    assert json.loads(run(store, "export", "b", "-t", "none", "-o", "json").stdout)["ranges"] == []
    assert len(run(store, "export", "b", "-t", "none").stdout.splitlines()) == 1


@pytest.mark.parametrize("what", ["show", "export"])
@pytest.mark.parametrize(
    ("wrong", "words", "there"),
    [
        (["-t", "typo"], "backup b has no topic 'typo'", "its topics: a, b"),
        (["-t", "x"], "backup b has no topic 'x'", "its topics: a, b"),
        (["-t", "zz*"], "backup b has no topic 'zz*'", "its topics: a, b"),
        (["-t", "b", "-p", "9"], "backup b has no partition 9 of topic b", "its partitions: 0"),
        (["-t", "a", "-p", "9"], "backup b has no partition 9 of topic a", "its partitions: 0, 2"),
    ],
)
def test_a_topic_or_partition_that_is_not_there_is_an_error_that_names_those_that_are(
    store: LocalStore, what: str, wrong: list[str], words: str, there: str
) -> None:
    result = run(store, what, "b", *wrong)
    assert (result.exit_code, result.stdout) == (2, "")
    assert words in result.stderr
    assert there in result.stderr


def test_of_many_topics_some_are_named(store: LocalStore) -> None:
    publish_manifest(store, manifest_of([topic_of(f"t{number:02}", []) for number in range(30)], backup_id="b"))
    result = run(store, "export", "b", "-t", "typo")
    assert "t07 and 22 more" in result.stderr


def test_topics_that_look_like_options_or_formulas_stay_what_they_are(store: LocalStore) -> None:
    write(store, ONE, [("-a.1", 0, 0, "-x", 0, 0, 1)])
    assert run(store, "export", "b").stdout.splitlines()[1] == "-a.1,0,0,-x,0,0,1"


def test_of_several_restores_one_has_to_be_named(store: LocalStore) -> None:
    note(store, TWO, created_at_ms=1_714_564_900_000)
    write(store, TWO, ROWS[:1])
    document = shown(store)
    assert document["mapping"] is None
    assert [one["restore_id"] for one in document["restores"]] == [ONE, TWO]
    assert "has several restores; name one with --restore." in run(store, "show", "b").stdout
    refused = run(store, "export", "b")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert ONE in refused.stderr
    assert shown(store, "--restore", "12")["mapping"]["restore_id"] == TWO
    assert len(run(store, "export", "b", "--restore", TWO).stdout.splitlines()) == 2
    ambiguous = run(store, "show", "b", "--restore", "1")
    assert ambiguous.exit_code == 10
    assert "several restores '1'" in ambiguous.stderr
    assert "no restore 'ff'" in run(store, "show", "b", "--restore", "ff").stderr


def test_what_is_not_there_is_told_apart(store: LocalStore, tmp_path: Path) -> None:
    store.delete(offset_map_key("b", ONE))
    assert "none of the restores of backup b has an offset mapping" in run(store, "show", "b").stderr
    store.delete(restore_state_key("b", ONE))
    never = run(store, "export", "b")
    assert never.exit_code == 10
    assert "backup b has no restore, so no offset mapping" in never.stderr
    other = run(store, "show", "other")
    assert other.exit_code == 10
    assert "no restore" not in other.stderr


def test_notes_that_can_t_be_read_hide_no_other_restore(store: LocalStore) -> None:
    note(store, TWO)
    key = restore_state_key("b", TWO)
    store.put(key, b"{}")
    found = {one["restore_id"]: one for one in shown(store)["restores"]}
    assert found[TWO]["status"] == "unreadable"
    assert TWO in found[TWO]["error"]
    assert shown(store)["mapping"]["restore_id"] == ONE


@pytest.mark.parametrize(
    "arguments", [["-p", "0"], ["--offset", "1"], ["-t", "a", "--offset", "1"], ["-t", "a", "-p", "-1"]]
)
def test_half_a_place_is_a_usage_error(store: LocalStore, arguments: list[str]) -> None:
    assert run(store, "show", "b", *arguments).exit_code == 2


def test_a_damaged_mapping_is_damage(store: LocalStore) -> None:
    store.put(offset_map_key("b", ONE), b"PAR1")
    result = run(store, "export", "b")
    assert result.exit_code == 4
    assert offset_map_key("b", ONE) in result.stderr


@pytest.mark.parametrize("mapped", [True, False])
def test_of_an_encrypted_backup_without_its_key_nothing_is_told_and_the_keys_that_would_open_it_are(
    tmp_path: Path, mapped: bool
) -> None:
    key = bytes(range(32))
    inner = LocalStore(str(tmp_path))
    sealed = seal_over(inner, Trust(secrets=KeySecrets(key=key)))
    begin_backup(sealed, "b")
    publish_manifest(sealed, manifest_of([topic_of("a", [])], backup_id="b"))
    note(sealed, ONE)
    if mapped:
        write(sealed, ONE)
    for verb in ("show", "export"):
        for given in ({}, {"KBR_ENCRYPTION_KEY": bytes(32).hex()}):
            with patch.dict("os.environ", given):
                refused = run(inner, verb, "b")
            assert (refused.exit_code, refused.stdout) == (12, ""), refused.stderr
            assert f"it opens with any of: encryption.key {symmetric_id(key)}" in " ".join(refused.stderr.split())
        with patch.dict("os.environ", {"KBR_ENCRYPTION_KEY": key.hex()}):
            assert run(inner, verb, "b").exit_code == (0 if mapped else 10)
