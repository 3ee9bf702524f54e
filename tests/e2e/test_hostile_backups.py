"""Hostile backups, files and values through the command line: bounded memory and time, one clear error, the right exit code.

A table of classes of input; each is read by every command that meets it, as a process of its own. Whoever can write to the
store has written them, so every checksum fits. What a command may take is stated with each class: 300 MB where nothing is
said, whatever an input of some kilobytes claims.
"""

from __future__ import annotations

import json
import os
import stat
import struct
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kbr.model import Compression
from kbr.repository.publish import publish_manifest
from kbr_codec import Record, encode_block, scan_block
from tests.support import kbak
from tests.support.backups import RecordingStore, identity_of, manifest_of, partition_of, topic_of, write_segment
from tests.support.hostile import (
    BACKUP_ID,
    Lie,
    Limited,
    edit_document,
    lz4_frame,
    lz4_without_size,
    offset_map_file,
    packed_nils,
    reseal,
    run_limited,
    sealed,
    thrift_list_bomb,
    with_index_entry,
    write_backup,
    write_index_of,
    write_segment_of,
    zstd_frame,
)
from tests.support.kafka import KafkaHarness

MB = 10**6
#: What a command may take for a small input, whatever that claims.
LIMIT_BYTES = 300 * MB
#: A machine with more to do needs some seconds for each; what has no bound needs minutes, or never ends.
DEADLINE_S = 60

RESTORE_ID = "0" * 32
SEGMENT = "topics/orders/partition=0/segment-00000000000000000100.zst"
FIRST_SEGMENT = "topics/orders/partition=0/segment-00000000000000000000"
OFFSETS_FILE = f"restores/{RESTORE_ID}/offsets.parquet"
SMALL = encode_block([Record(0, 1_700_000_000_000, 1, None, b"v", ())])
MANIFEST_HEAD = b'{"format":"kbr-manifest","format_version":1,'

LIST = ("list",)
DESCRIBE = ("describe", BACKUP_ID)
VERIFY = ("verify", BACKUP_ID)
DEEP = ("verify", BACKUP_ID, "--deep")
CAT = ("cat", BACKUP_ID, "-J")
GROUPS = ("groups", "list", BACKUP_ID)
OFFSETS = ("offsets", "show", BACKUP_ID)
EXPORT = ("offsets", "export", BACKUP_ID)
INDEX = ("index", "show", BACKUP_ID)


@dataclass(frozen=True)
class Case:
    """One hostile input.

    Attributes:
        row: the class.
        make: writes it into a store's folder.
        readers: commands, each with the exit code that it has to end with.
        names: what the error, or the report, has to name.
        limit_bytes: what each may take.
    """

    row: str
    make: Callable[[Path], object]
    readers: dict[tuple[str, ...], int]
    names: str = "manifest.json"
    limit_bytes: int = LIMIT_BYTES


def manifest(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """A good backup whose manifest says something else, and is sealed again."""
    return lambda store: edit_document(write_backup(store) / "manifest.json", change)


def topic_named(name: str) -> Callable[[Path], None]:
    return manifest(lambda document: document["topics"][0].update(name=name))


def key_named(key: str) -> Callable[[Path], None]:
    return manifest(lambda document: document["topics"][1]["partitions"][0]["segments"][0].update(key=key))


def manifest_bytes(data: Callable[[], bytes]) -> Callable[[Path], None]:
    def make(store: Path) -> None:
        (store / BACKUP_ID).mkdir()
        (store / BACKUP_ID / "manifest.json").write_bytes(data())

    return make


def sparse_manifest(store: Path) -> None:
    """A gigabyte that takes no place on the disk."""
    manifest_bytes(bytes)(store)
    os.truncate(store / BACKUP_ID / "manifest.json", 2**30)


def in_place_of(name: str, put: Callable[[Path, Path], object]) -> Callable[[Path], None]:
    """Something else in place of an object: ``put`` gets its place and a folder outside the store, where the object is."""

    def make(store: Path) -> None:
        path = write_backup(store) / name
        outside = store.parent / "outside"
        outside.mkdir()
        path.rename(outside / path.name)
        put(path, outside / path.name)

    return make


def beside(name: str, data: Callable[[], bytes]) -> Callable[[Path], None]:
    """A good backup and one more object."""

    def make(store: Path) -> None:
        path = write_backup(store) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data())

    return make


def deep_folders(store: Path) -> None:
    """Deeper than any key is long, and than Python's own recursion goes."""
    write_backup(store)
    descriptor = os.open(store, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=descriptor)
        below = os.open("d", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    os.close(descriptor)


def offset_map(data: Callable[[], bytes]) -> Callable[[Path], None]:
    """A mapping with the notes of its restore."""

    def make(store: Path) -> None:
        beside(OFFSETS_FILE, data)(store)
        notes = {
            "format": "kbr-restore-state", "format_version": 1, "kbr_version": "1", "backup_id": BACKUP_ID,
            "restore_id": RESTORE_ID, "cluster_id": "c", "status": "complete", "created_at": 1, "updated_at": 1, "topics": [],
        }  # fmt: skip
        (store / BACKUP_ID / f"restores/{RESTORE_ID}/state.json").write_bytes(sealed(notes))

    return make


def oso(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """A backup of another tool with a manifest that says something else."""

    def make(store: Path) -> None:
        backup = kbak.OsoBackup(kbak.put_files(store), backup_id=BACKUP_ID)
        backup.topic("orders", 1)
        backup.partition("orders", 0, [kbak.rows_of(0, 20)])
        document = backup.document()
        change(document)
        (store / BACKUP_ID / "manifest.json").write_text(json.dumps(document))

    return make


def kbak_body(body: bytes, *, raw_bytes: int, compression: str = "zstd") -> Callable[[Path], None]:
    """One segment of the other tool with this body as stored, and a manifest that says this of it."""

    def make(store: Path) -> None:
        data = kbak.sealed(kbak.header_bytes(1, 0, 0, compression), body)
        key = f"{BACKUP_ID}/{FIRST_SEGMENT}.bin{kbak.EXTENSIONS[compression]}"
        kbak.put_files(store)(key, data)
        segment = {
            "key": key, "start_offset": 0, "end_offset": 0, "start_timestamp": 1, "end_timestamp": 1, "record_count": 1,
            "uncompressed_size": raw_bytes, "compressed_size": len(data),
        }  # fmt: skip
        topic = {
            "name": "orders", "original_partition_count": 1, "partitions": [{"partition_id": 0, "segments": [segment]}]
        }  # fmt: skip
        document = {"backup_id": BACKUP_ID, "created_at": 1, "compression": compression, "topics": [topic]}
        (store / BACKUP_ID / "manifest.json").write_text(json.dumps(document))

    return make


def segment(lie: Callable[[], Lie], compression: Compression = Compression.ZSTD) -> Callable[[Path], object]:
    return lambda store: write_segment_of(store, [lie()], compression)


def index_entry(value: Callable[[], bytes]) -> Callable[[Path], object]:
    """A segment whose index has one entry that no reader knows."""
    return lambda store: write_segment_of(
        store, [Lie(zstd_frame(SMALL), len(SMALL))], tail=lambda frame: with_index_entry(frame, value())
    )


def honest() -> Lie:
    """One record of 16 MB in 1 kB."""
    block = zeros(16 * 2**20)
    return Lie(zstd_frame(block), len(block), scan_block(block))


def nils() -> Lie:
    """240 MB of records without anything, where the index says one."""
    block = packed_nils(60_000_000)
    return Lie(zstd_frame(block), len(block))


def arrays(head: bytes, count: int = 5 * 10**6) -> Callable[[], bytes]:
    """A sealed document that begins so, and then has empty arrays."""
    return lambda: reseal(head + b"[]," * count + b"0]}")


def zeros(count: int) -> bytes:
    """One record of so many zeros, as a block."""
    return encode_block([Record(0, 1_700_000_000_000, 1, None, bytes(count), ())])


def overlapping(document: dict[str, Any]) -> None:
    segments = document["topics"][1]["partitions"][0]["segments"]
    segments.append(segments[0])


def cases() -> Iterator[Case]:
    """The table."""
    refused = {LIST: 0, DESCRIBE: 4}
    damaged = {DEEP: 4, CAT: 4}
    long_name, short_name = "a" * 250, "a" * 249
    yield Case("topic name '..'", topic_named(".."), {**refused, VERIFY: 4, CAT: 4})
    for row, name in {
        "topic name '.'": ".", "topic name with a slash": "a/b", "topic name, percent-encoded": "%2e%2e",
        "topic name with NUL": "a\0b", "topic name of 250 characters": long_name,
        "topic name with a terminal escape": "\x1b[2J", "topic name with a bidi override": "\u202eevil",
    }.items():  # fmt: skip
        yield Case(row, topic_named(name), {DESCRIBE: 4})
    yield Case("topic name of 249 characters", topic_named(short_name), {DESCRIBE: 0}, names=short_name)
    yield Case("absolute segment key", key_named("/etc/passwd"), {DESCRIBE: 4, CAT: 4})
    yield Case("segment key with ../", key_named("topics/orders/../../../../outside"), {DESCRIBE: 4, CAT: 4})

    for row, put in {
        "symlink to a file outside": lambda path, outside: path.symlink_to(outside),
        "symlink to a device": lambda path, _outside: path.symlink_to("/dev/zero"),
        "symlink loop": lambda path, _outside: path.symlink_to(path),
        "FIFO": lambda path, _outside: os.mkfifo(path),
        "device": lambda path, _outside: os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 5)),
    }.items():
        yield Case(f"{row} for a segment", in_place_of(SEGMENT, put), {VERIFY: 4, CAT: 4}, names=SEGMENT)
    yield Case(
        "symlink to a folder outside", in_place_of("topics/orders", lambda path, outside: path.symlink_to(outside)),
        {VERIFY: 4, CAT: 4}, names=SEGMENT,
    )  # fmt: skip
    yield Case(
        "symlink for a manifest", in_place_of("manifest.json", lambda path, outside: path.symlink_to(outside)), refused
    )
    yield Case("FIFO for a manifest", in_place_of("manifest.json", lambda path, _outside: os.mkfifo(path)), refused)
    yield Case("folders 1,500 deep", deep_folders, {LIST: 0, VERIFY: 0}, names=BACKUP_ID)

    small, frame = len(SMALL), zstd_frame(SMALL)
    lz4, big = Compression.LZ4, 250 * 2**20
    for row, make in {
        "10 GB claimed in 100 bytes": segment(lambda: Lie(frame, 10 * 2**30)),
        "200 MB claimed in 100 bytes": segment(lambda: Lie(frame, 200 * 2**20)),
        "zstd window of 2 GB": segment(lambda: Lie(zstd_frame(SMALL, window_log=31), small)),
        "zstd frame without a size": segment(lambda: Lie(zstd_frame(SMALL, declared=0), small)),
        "zstd bomb": segment(lambda: Lie(zstd_frame(bytes(big)), small)),
        "LZ4 bomb": segment(lambda: Lie(lz4_frame(bytes(big)), small), lz4),
        "LZ4 bomb without a size": segment(lambda: Lie(lz4_without_size(bytes(16 * 2**20)), 70_000), lz4),
        "msgpack that claims 4 G pairs": index_entry(lambda: b"\xdf\xff\xff\xff\xff"),
    }.items():
        yield Case(row, make, damaged, names=FIRST_SEGMENT)
    yield Case("1000:1 within the claimed size", segment(honest), {DEEP: 0, CAT: 0}, names="")
    # the block itself, 240 MB as claimed and allowed, and nothing made of what is in it
    yield Case("60 million records in 7 kB", segment(nils), damaged, FIRST_SEGMENT, 500 * MB)
    million = index_entry(lambda: b"\xdd" + struct.pack(">I", 10**6) + b"\x90" * 10**6)
    yield Case("msgpack of a million empty arrays", million, {CAT: 0}, names="")
    yield Case("msgpack of a million levels", index_entry(lambda: b"\x91" * 10**6 + b"\x90"), {CAT: 0}, names="")

    for row, head, tail in (
        ("JSON of a million levels", b'"a":', b"[" * 10**6 + b"}"),
        ("NaN", b'"created_at":', b"NaN}"),
        ("integer of a million digits", b'"a":', b"9" * 10**6 + b"}"),
    ):
        yield Case(row, manifest_bytes(lambda head=head, tail=tail: reseal(MANIFEST_HEAD + head + tail)), {DESCRIBE: 4})
    yield Case("JSON of 5 million empty arrays", manifest_bytes(arrays(MANIFEST_HEAD + b'"a":[')), refused)
    other = b'{"backup_id":"x","created_at":1,"topics":['
    yield Case("JSON of a million objects", manifest_bytes(lambda: other + b'{"a":1},' * 10**6 + b"0]}"), refused)
    yield Case("manifest of 1 GiB, sparse", sparse_manifest, {**refused, CAT: 4})
    # JSON itself may have 1,024 levels here
    nested = manifest(lambda document: document.update(retention=json.loads('{"a":' * 300 + "1" + "}" * 300)))
    yield Case("a value of 300 levels", nested, {DESCRIBE: 4, (*DESCRIBE, "-o", "yaml"): 4})
    yield Case("overlapping segments", manifest(overlapping), {DESCRIBE: 4, DEEP: 4})
    yield Case("topic twice", manifest(lambda document: document["topics"].append(document["topics"][0])), {DESCRIBE: 4})

    groups = b'{"format":"kbr-groups","format_version":1,"groups":['
    yield Case("groups: empty arrays", beside("groups.json", arrays(groups)), {GROUPS: 4, VERIFY: 4}, "groups.json")
    yield Case("groups: 20 MB", beside("groups.json", lambda: bytes(20 * MB)), {GROUPS: 4, VERIFY: 4}, "groups.json")
    notes = b'{"format":"kbr-restore-state","format_version":1,"topics":['
    state = f"restores/{RESTORE_ID}/state.json"
    yield Case("restore state: empty arrays", beside(state, arrays(notes, 2 * 10**6)), {DESCRIBE: 0}, names="state.json")
    lock = f"locks/{1_700_000_000_000:013d}-{'0' * 16}.json"
    yield Case("lock: a megabyte", beside(lock, lambda: b"[" * 2**20), {DESCRIBE: 0, VERIFY: 0}, names=BACKUP_ID)

    for field, what in ((2, "schema"), (4, "row groups"), (5, "metadata")):
        yield Case(
            f"offset mapping: 16 million {what} in 20 bytes",
            offset_map(lambda field=field: thrift_list_bomb(field, 16_000_000)),
            {OFFSETS: 4},
            names=OFFSETS_FILE,
        )
    yield Case("offset mapping: good", offset_map(lambda: offset_map_file(10)), {OFFSETS: 0, EXPORT: 0}, names="")
    squeezed = offset_map(lambda: offset_map_file(10, compression="zstd"))
    yield Case("offset mapping: compressed pages", squeezed, {OFFSETS: 4, EXPORT: 4}, names=OFFSETS_FILE)
    lying = offset_map(lambda: offset_map_file(3_000_000, told=10))
    yield Case("offset mapping: 3 million rows where 10 are told of", lying, {OFFSETS: 4}, names=OFFSETS_FILE)
    for field, what in ((4, "row groups"), (7, "column orders")):
        yield Case(
            f"block index: 200 million {what} in 20 bytes",
            lambda store, field=field: write_index_of(store, thrift_list_bomb(field, 200_000_000)),
            {INDEX: 4, VERIFY: 4},
            names="index/",
        )
    head_json = beside("index/head.json", arrays(b'{"format":"kbr-block-index","format_version":1,"pieces":['))
    yield Case("block index: empty arrays", head_json, {INDEX: 4, VERIFY: 4}, "head.json")

    counted = oso(lambda document: document["topics"][0].update(original_partition_count=2**31 - 1))
    yield Case("other tool's: 2 G partitions", counted, refused)
    claim = struct.pack("<I", 200 * 2**20) + bytes(100)
    for row, body in {
        "other tool's: a record of 200 MB in 100 bytes": kbak_body(kbak.compressed(claim, "zstd"), raw_bytes=2**40),
        "other tool's: an LZ4 block of 200 MB in 100 bytes": kbak_body(claim, raw_bytes=200 * 2**20, compression="lz4"),
    }.items():
        yield Case(row, body, damaged, FIRST_SEGMENT)


CASES = {case.row: case for case in cases()}


def _outside(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Everything outside the store and the run's own output, to be the same afterwards."""
    found = [folder, *folder.iterdir(), *(folder / "outside").rglob("*")]
    return {
        str(path): (path.lstat().st_mode, path.lstat().st_size, path.lstat().st_mtime_ns)
        for path in found
        if path.name not in ("store", "run")
    }


def _check(done: Limited, exit_code: int, names: str, limit_bytes: int = LIMIT_BYTES) -> None:
    """It ended in time, as it should, with one error, and without taking more than it may."""
    shown = f"exit {done.returncode}\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}"
    assert not done.timed_out, shown
    assert "Traceback" not in done.stderr, shown
    assert done.returncode == exit_code, shown
    errors = [line for line in done.stderr.splitlines() if line.startswith("Error")]
    # who verifies, or shows an index, reports damage on standard output
    assert len(errors) == (0 if exit_code == 0 or "DAMAGE" in done.stdout or "unreadable" in done.stdout else 1), shown
    assert names in done.stdout + done.stderr, shown
    assert len(done.stderr) < 10_000, shown
    assert done.peak_bytes <= limit_bytes, f"{done.peak_bytes / MB:.0f} MB\n{shown}"


@pytest.mark.fault("H1", "names, keys and links in manifests, segments and stores", promise=9)
@pytest.mark.fault("H3", "bombs in manifests, segments, indexes, mappings, groups and notes", promise=9)
@pytest.mark.parametrize("row", CASES)
def test_hostile_input_is_bounded_and_told_in_one_line(
    row: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    case = CASES[row]
    store = tmp_path / "store"
    store.mkdir()
    case.make(store)
    (tmp_path / "run").mkdir()
    before = _outside(tmp_path)
    try:
        for words, exit_code in case.readers.items():
            column = " ".join(word for word in words if word not in (BACKUP_ID, "-J", "--deep"))
            column += " --deep" if "--deep" in words else ""
            record_property("compatibility", {"table": "hostile input", "row": row, "column": column})
            done = run_limited(*words, "--storage", str(store), folder=tmp_path / "run", deadline_s=DEADLINE_S)
            _check(done, exit_code, case.names, case.limit_bytes)
        assert _outside(tmp_path) == before
    finally:
        subprocess.run(["rm", "-rf", str(store)], check=True)  # rmtree() recurses


def test_a_smaller_limit_for_manifests_is_kept(tmp_path: Path) -> None:
    manifest_bytes(lambda: b"{" + b" " * 3_000_000 + b"}")(tmp_path)
    words = ("describe", BACKUP_ID, "--storage", str(tmp_path), "--set", "limits.max_manifest_bytes=2MiB")
    _check(run_limited(*words, folder=tmp_path / "run"), 4, "limits.max_manifest_bytes")


@pytest.mark.fault("H3", "several bombs at once", promise=9)
def test_many_large_blocks_at_once_take_what_one_may(tmp_path: Path) -> None:
    """Objects are verified side by side; their blocks share what one block may have."""
    memory = RecordingStore()
    block = zeros(100 * 2**20)
    partitions = [
        partition_of([write_segment(memory, identity_of(partition=number), [block], 1)], partition=number) for number in range(6)
    ]
    publish_manifest(memory, manifest_of([topic_of("orders", partitions)]))
    for key in memory.stored_keys():
        (tmp_path / "store" / key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "store" / key).write_bytes(memory.data(key))
    words = (*DEEP, "--storage", str(tmp_path / "store"), "--set", "limits.max_block_bytes=110MiB")
    _check(run_limited(*words, folder=tmp_path / "run", deadline_s=DEADLINE_S), 0, "good", 250 * MB)


# -- restores -------------------------------------------------------------------------------


@pytest.mark.fault("H3", "a restore of blocks that hold other things than their index says", promise=9)
@pytest.mark.parametrize(
    "row", ["10 GB claimed in 100 bytes", "60 million records in 7 kB", "symlink to a device for a segment", "topic name '..'"]
)
def test_nothing_of_a_hostile_backup_reaches_kafka(
    kafka: KafkaHarness, row: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    case = CASES[row]
    store = tmp_path / "store"
    store.mkdir()
    case.make(store)
    target = kafka.topic_name("hostile")
    words = ("restore", "-b", kafka.bootstrap, "--backup-id", BACKUP_ID, "--storage", str(store), "--topic-map", f"orders={target}")
    words = (*words, "--set", "restore.replication_factor=1", "--topic-config", "retention.ms=-1", "-t", "orders")
    record_property("compatibility", {"table": "hostile input", "row": row, "column": "restore"})
    done = run_limited(*words, folder=tmp_path / "run", deadline_s=DEADLINE_S)
    assert not done.timed_out
    assert "Traceback" not in done.stderr
    assert done.returncode in (3, 4), done.stderr
    assert "manifest.json" in done.stderr or "segment-" in done.stdout + done.stderr
    assert not kafka.topic_exists(target) or not any(kafka.read_all(target))


# -- configurations and the environment -----------------------------------------------------


def yaml_laughs(merge: bool) -> bytes:
    """Nine levels of nine each; as merge keys they are exponential to most parsers."""
    lines = ["a: &a {x: 1}" if merge else "a: &a [x, x, x]"]
    for level in range(9):
        above = ", ".join([f"*{chr(97 + level)}"] * 9)
        name = chr(98 + level)
        lines.append(f"{name}: &{name} {{<<: [{above}]}}" if merge else f"{name}: &{name} [{above}]")
    return "\n".join(lines).encode()


CONFIGS = {
    "YAML aliases": (yaml_laughs(merge=False), "anchors"),
    "YAML merge keys": (yaml_laughs(merge=True), "anchors"),
    "YAML merge key, plain": (b"storage:\n  <<: {url: /x}\n", "merge keys"),
    "YAML 100,000 levels deep": (b"[" * 100_000, "deeper than 20"),
    "YAML of more than 1 MiB": (b"#" * (2**20 + 1), "larger than"),
    "YAML key twice": (b"backup_id: a\nbackup_id: b\n", "given twice"),
    "YAML tag": (b"a: !!python/object:os.system x\n", "tags"),
    "YAML, 10,000 unknown keys": (b"".join(b"key%d: 1\n" % number for number in range(10_000)), "10001 mistakes"),
    "YAML key with a line feed": (b'"a\\nError: all is well": 1\n', "a\\nError"),
}


@pytest.mark.fault("H2", "a hostile configuration file", promise=9)
@pytest.mark.parametrize("row", CONFIGS)
def test_a_hostile_configuration_is_refused(row: str, tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    data, words = CONFIGS[row]
    (tmp_path / "kbr.yaml").write_bytes(data)
    record_property("compatibility", {"table": "hostile input", "row": row, "column": "config check"})
    done = run_limited("config", "check", str(tmp_path / "kbr.yaml"), folder=tmp_path / "run", deadline_s=DEADLINE_S)
    shown = done.stderr[:3000]
    assert (done.timed_out, done.returncode) == (False, 2), shown
    assert "Traceback" not in done.stderr
    assert [line for line in done.stderr.splitlines() if line.startswith("Error")] == done.stderr.splitlines()[:1]
    assert words in done.stderr, shown
    assert len(done.stderr) < 30_000
    assert done.peak_bytes <= LIMIT_BYTES


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("KBR_BACKUP_SEGMENT_MAX_BYTES", "9" * 100_000),
        ("KBR_RESTORE_TIME_WINDOW_START", "1\x1b[2J"),
        ("KBR_SOURCE_TOPICS_INCLUDE", "[" * 100_000),
        ("KBR_STORAGE_DEADLINE_MS", "1e308"),
        ("KBR_LIMITS_MAX_BLOCK_BYTES", "-1"),
    ],
)
def test_hostile_values_of_the_environment_are_refused(name: str, value: str, tmp_path: Path) -> None:
    done = run_limited("list", "--storage", str(tmp_path), folder=tmp_path / "run", env={name: value}, deadline_s=DEADLINE_S)
    assert (done.timed_out, done.returncode) == (False, 2), done.stderr[:3000]
    (error,) = done.stderr.splitlines()
    assert error.startswith(f"Error: {name}")
    assert error.isprintable()
    assert len(error) < 1000
    assert done.peak_bytes <= LIMIT_BYTES


# -- what people see ------------------------------------------------------------------------

#: Clears the screen, turns the text around, hides a letter, begins a line, ends a line.
EVIL = "=HYPERLINK(1)\x1b[2J\x9b1m\u202e\u200b\U000e0041\nError: all is lost\r"


def evil_backup(store: Path) -> None:
    """A backup whose free texts act on a terminal."""
    folder = write_backup(store)

    def change(document: dict[str, Any]) -> None:
        document["source"].update(cluster_id=EVIL, brokers=[EVIL])
        document["kbr_version"] = EVIL
        partition = document["topics"][0]["partitions"][0]
        partition.update(status="failed", error=EVIL, high_watermark=5, end_offset_exclusive=5)
        partition["gaps"] = [
            {"start_offset": 0, "end_offset_exclusive": 3, "reason": "retention", "detected_at": 1, "detail": EVIL}
        ]

    edit_document(folder / "manifest.json", change)
    topics = [{"topic": "orders", "partitions": [0], "offsets": [3], "leader_epochs": [-1], "metadata": {}}]
    groups = {
        "format": "kbr-groups", "format_version": 1, "kbr_version": EVIL, "backup_id": BACKUP_ID, "cluster_id": EVIL, "captured_at": 1,
        "other_offsets": 0, "unread": {EVIL: EVIL}, "log_ends": {},
        "groups": [{"group": EVIL, "type": EVIL, "state": EVIL, "topics": topics}],
    }  # fmt: skip
    (folder / "groups.json").write_bytes(sealed(groups))


@pytest.mark.fault("H5", "names and texts of a hostile backup on a terminal", promise=9)
@pytest.mark.parametrize("words", [DESCRIBE, GROUPS, LIST, VERIFY])
def test_nothing_that_people_see_acts_on_their_terminal(words: tuple[str, ...], tmp_path: Path) -> None:
    """Tables show it written out, and no text begins a line; JSON has it exactly, as escapes."""
    store = tmp_path / "store"
    store.mkdir()
    evil_backup(store)
    table = run_limited(*words, "--storage", str(store), folder=tmp_path / "run")
    assert table.returncode == 0, table.stderr
    shown = table.stdout + table.stderr
    assert all(character == "\n" or character.isprintable() for character in shown)
    assert not [line for line in shown.splitlines() if line.lstrip().startswith("Error")]
    if words in (DESCRIBE, GROUPS):
        assert "\\x1b[2J\\x9b1m\\u202e\\u200b\\U000e0041\\x0aError" in shown
    document = run_limited(*words, "-o", "json", "--storage", str(store), folder=tmp_path / "run")
    assert document.returncode == 0, document.stderr
    assert all(character == "\n" or " " <= character <= "~" for character in document.stdout)
    if words in (DESCRIBE, GROUPS):
        assert EVIL in set(_texts(json.loads(document.stdout)))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _texts(inner)
