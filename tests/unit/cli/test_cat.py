"""kbr cat: kcat's flags and formats over a backup, byte for byte."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from kbr.cli.record_format import json_line, parse_format, unescape
from kbr.model import TopicPartition
from kbr.repository.publish import publish_manifest
from kbr.storage import StorageOptions, open_store
from kbr_codec import Record, encode_block
from tests.support.backups import RecordingStore, identity_of, manifest_of, partition_of, topic_of, write_segment
from tests.support.cli import kbr_environment

T0 = 1_700_000_000_000
ORDERS = TopicPartition("orders", 3)
RECORDS = [
    Record(0, T0, 1, b"a", b"one", ((b"h", b"1"), (b"g", None))),
    Record(1, T0 + 1000, 2, None, None, ()),
    Record(5, -1, 0, b"", b"", ((b"\xff", b"\x1b[31m"),)),
    Record(6, T0 + 500, 1, b"\xff\x00", b"caf\xc3\xa9\x1b\x7f\n", ()),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Topics ``orders`` (two partitions, the same records) and ``large`` (a block of 50,000 records)."""
    store = RecordingStore()
    blocks = [encode_block(RECORDS[:2]), encode_block(RECORDS[2:])]
    orders = [
        partition_of([write_segment(store, identity_of(partition=number), blocks, 7)], partition=number)
        for number in range(2)
    ]
    many = encode_block(Record(n, T0 + n, 1, None, b"%d" % n * 20, ()) for n in range(50_000))
    large = partition_of([write_segment(store, identity_of(topic="large"), [many], 50_000)])
    publish_manifest(store, manifest_of([topic_of("large", [large]), topic_of("orders", orders)]))
    folder = tmp_path_factory.mktemp("backups")
    real = open_store(StorageOptions(url=str(folder)))
    for key in store.stored_keys():
        real.put(key, store.data(key))
    real.close()
    return folder


def cat(folder: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "kbr", "cat", "--storage", str(folder), "nightly", *arguments],
        capture_output=True,
        check=False,
        env=kbr_environment(),
        timeout=60,
    )


def printed(folder: Path, *arguments: str) -> bytes:
    done = cat(folder, *arguments)
    assert (done.returncode, done.stderr) == (0, b""), done.stderr
    return done.stdout


def test_values_are_printed_as_they_are(folder: Path) -> None:
    assert printed(folder, "-t", "orders", "-p", "0") == b"one\n\n\ncaf\xc3\xa9\x1b\x7f\n\n"
    assert printed(folder, "-t", "orders", "-p", "1", "-D", "\\x00", "-K", ":", "-Z") == (
        b"a:one\0NULL:NULL\0:\0\xff\x00:caf\xc3\xa9\x1b\x7f\n\0"
    )


def test_windows_and_counts_are_kcats(folder: Path) -> None:
    def found(*arguments: str) -> list[str]:
        return printed(folder, "-t", "orders", "-f", r"%p/%o\n", *arguments).decode().split()

    assert found() == ["0/0", "0/1", "0/5", "0/6", "1/0", "1/1", "1/5", "1/6"]
    assert found("-o", "beginning", "-c", "5") == ["0/0", "0/1", "0/5", "0/6", "1/0"]
    assert found("-p", "1", "-o", "2", "--to-offset", "5") == ["1/5"]
    assert found("-o", "-1") == ["0/6", "1/6"]
    assert found("-p", "0", "--from-timestamp", str(T0 + 500), "--to-timestamp", "2023-11-14T22:13:21Z") == ["0/1", "0/6"]
    # kcat's e@ is not included
    assert found("-p", "0", "-o", f"s@{T0}", "-o", f"e@{T0 + 1000}") == ["0/0", "0/6"]
    assert found("-p", "0", "-o", "1", "-o", f"e@{T0 + 1000}") == ["0/5", "0/6"]
    assert found("--last", "1h") == []
    assert found("-c", "0") == []


def test_json_lines_hold_every_field_and_nothing_that_acts_on_a_terminal(folder: Path) -> None:
    lines = printed(folder, "-t", "orders", "-p", "0", "-J")
    assert all(byte == 10 or 32 <= byte < 127 for byte in lines)
    first, second, third, fourth = map(json.loads, lines.splitlines())
    assert first == {
        "topic": "orders",
        "partition": 0,
        "offset": 0,
        "timestamp": "2023-11-14T22:13:20.000Z",
        "timestamp_ms": T0,
        "timestamp_type": "CreateTime",
        "key": "a",
        "value": "one",
        "headers": [{"name": "h", "value": "1"}, {"name": "g", "value": None}],
    }
    assert (second["key"], second["value"], second["timestamp_type"]) == (None, None, "LogAppendTime")
    assert (third["timestamp"], third["timestamp_ms"], third["timestamp_type"]) == (None, -1, None)
    assert third["headers"] == [{"name_b64": "/w==", "value": "\x1b[31m"}]
    assert (third["key"], third["value"]) == ("", "")
    assert (fourth["key_b64"], fourth["value"]) == ("/wA=", "café\x1b\x7f\n")
    assert "key" not in fourth


def test_json_lines_have_the_name_that_other_verbs_have_for_them(folder: Path) -> None:
    assert printed(folder, "-c", "3", "--output", "json") == printed(folder, "-c", "3", "-J")


def test_a_reader_that_has_enough_ends_it_quietly(folder: Path) -> None:
    command = [sys.executable, "-m", "kbr", "cat", "--storage", str(folder), "nightly", "-t", "large"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=kbr_environment()) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"0" * 20 + b"\n"
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 0


@pytest.mark.parametrize(
    ("arguments", "code", "what"),
    [
        (["-o", "json"], 2, "-J prints JSON lines"),
        (["-o", "stored"], 2, "-o takes beginning, N, -N, s@T or e@T"),
        (["-o", "1", "-o", "2"], 2, "another one of its kind"),
        (["-o", "s@1700000000"], 2, "looks like seconds; did you mean 1700000000000"),
        (["-o", "e@yesterday"], 2, "-o e@yesterday"),
        (["--from-timestamp", "2024-05-01T12:00:00"], 2, "has no time zone"),
        (["--last", "24"], 2, "must be a duration such as 24h"),
        (["--last", "24h", "--from-timestamp", "0"], 2, "give one"),
        (["-f", "%q"], 2, "%q is no token"),
        (["-f", "%s", "-J"], 2, "exclude each other"),
        (["-c", "kbr.yaml"], 2, "-c is the count here, as in kcat: a configuration is given by --config"),
        (["-t", "payments"], 2, "no topic payments"),
        (["-t", "orders", "-p", "2"], 2, "has no partition 2"),
    ],
)
def test_what_makes_no_sense_is_refused_with_a_word_on_what_would(
    folder: Path, arguments: list[str], code: int, what: str
) -> None:
    done = cat(folder, *arguments)
    assert (done.returncode, done.stdout) == (code, b"")
    assert what in done.stderr.decode()


def test_damage_ends_it_with_exit_code_4(folder: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    segment = next(copy.glob("nightly/topics/orders/partition=1/*.zst"))
    data = bytearray(segment.read_bytes())
    data[30] ^= 0x40
    segment.write_bytes(data)
    done = cat(copy, "-t", "orders", "-f", "%p", "-p", "1")
    assert done.returncode == 4
    assert b"is damaged" in done.stderr


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("%s|%S|%k|%K", b"one|3|a|1"),
        ("%t-%p-%o-%T", b"orders-3-0-1700000000000"),
        ("%h", b"h=1,g=NULL"),
        (r"100%% \x41\x7\t\\", b"100% A\x07\t\\"),
        ("%R", b"\0\0\0\x03"),
        ("ü", "ü".encode()),
        ("", b""),
    ],
)
def test_format_tokens_are_kcats(text: str, expected: bytes) -> None:
    assert parse_format(text)(ORDERS, RECORDS[0]) == expected


def test_null_and_empty_are_told_apart_by_length_and_by_the_text_for_null() -> None:
    form = parse_format("%k,%K,%s,%S,%R", null=b"NULL")
    assert form(ORDERS, RECORDS[1]) == b"NULL,-1,NULL,-1,\xff\xff\xff\xff"
    assert form(ORDERS, RECORDS[2]) == b",0,,0,\0\0\0\0"


@pytest.mark.parametrize("text", ["%", "50%", "%x", "a%%%"])
def test_a_token_that_there_is_not_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no token|lone %"):
        parse_format(text)


def test_escapes_are_bytes() -> None:
    assert unescape(r"\n\t\r\0\x1b\q\\n") == b"\n\t\r\0\x1bq\\n"


def test_a_timestamp_beyond_every_calendar_has_no_text() -> None:
    line = json.loads(json_line(ORDERS, Record(1, 2**62, 1, None, None, ())))
    assert (line["timestamp"], line["timestamp_ms"]) == (None, 2**62)
