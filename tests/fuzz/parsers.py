"""Feeds mutated documents and files to what kbr reads of a store, a file or the environment; run by scripts/fuzz TARGET.

    python -m tests.fuzz.parsers TARGET [--inputs N] [--seconds S] [--seed X] [--last FILE | --replay FILE]

First every file of the target's corpus (tests/fuzz/corpus/TARGET), which has to give what it gave before (good files a
value), then mutations of them. Passes only if each gives a value or one of kbr's own errors, none takes 2 s of CPU or leaves
the memory's limit, and what was read of a document can be written and read again and is the same. Seals and checksums are
made to fit for most inputs, as an attacker would. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import faulthandler
import hashlib
import json
import random
import resource
import sys
import time
import traceback
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import zstandard

from kbr.config import values as config_values
from kbr.config.loader import load_config
from kbr.errors import KbrError
from kbr.format import block_index_parser, offset_map_parser
from kbr.format.block_index_head import PieceEntry, load_head
from kbr.format.documents import dump_manifest, load_manifest
from kbr.format.group_rollback import dump_rollback, load_rollback
from kbr.format.groups import dump_groups, load_groups
from kbr.format.manifest_chosen import load_chosen_topics
from kbr.format.oso_groups import load_oso_groups
from kbr.format.oso_manifest import oso_document, parse_oso_manifest
from kbr.format.restore_state import dump_restore_state, load_restore_state
from kbr.format.segment import NeedMoreTail, parse_index
from kbr.model import SegmentRef
from kbr.repository.kbak_reader import KbakReader
from kbr.repository.lock_file import dump_lock, parse_lock
from kbr.storage.memory import MemoryStore
from tests.support.hostile import varint

from .mutations import mutate_bytes, mutate_json, mutate_text

CORPUS = Path(__file__).parent / "corpus"
#: Memory that a run may add, KiB: what pyarrow keeps, and the largest things that an input of some kilobytes may make.
GROWTH_LIMIT_KIB = 160 * 1024
CPU_LIMIT_S = 2.0
_NAME = "object"


class Wrong(Exception):
    """What a reader must not do."""


class _FitsAll:
    """Stands in for a checksum that fits whatever it is compared with."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False


class _Zlib:
    """zlib for the readers of row groups, whose directory an attacker would have made fit."""

    crc32 = staticmethod(lambda _data: _FitsAll())


# -- targets: bytes to a value, or to an error ------------------------------------------------


def _again(loaded: object, dump: Callable[[Any], bytes], load: Callable[..., object]) -> object:
    if load(dump(loaded), name=_NAME) != loaded:
        raise Wrong("what was read can't be written and read again")
    return loaded


def _manifest(data: bytes) -> object:
    chosen = load_chosen_topics(lambda start, size: data[start : start + size], len(data), lambda _name: True)
    manifest = load_manifest(data, name=_NAME)
    if chosen is not None and chosen != manifest:
        raise Wrong("read in pieces it is another manifest")
    return _again(manifest, dump_manifest, load_manifest)


def _oso_manifest(data: bytes) -> object:
    document = oso_document(data)
    return None if document is None else parse_oso_manifest(document, name=_NAME)


def _segment(data: bytes) -> object:
    try:
        return parse_index(data, object_bytes=len(data), name=_NAME)
    except NeedMoreTail as need:
        raise Wrong("more than the whole object is wanted") from need


def _kbak(data: bytes) -> object:
    """A segment of another tool, its CRC-32 made to fit, and a manifest that believes its header."""
    if len(data) < 40:
        return None
    body = data[:-8]
    data = body + zlib.crc32(body).to_bytes(4, "little") + b"BKAE"
    count, first, last = (int.from_bytes(data[at : at + 8], "little", signed=at > 8) for at in (8, 16, 24))
    extension = {0: "", 1: ".zst", 2: ".lz4"}.get(data[5], "")
    reference = SegmentRef(
        key=f"topics/orders/partition=0/segment-{max(0, min(first, 2**63 - 1)):020d}.bin{extension}", sequence=first, next_offset=last + 1,
        start_offset=first, end_offset=last, start_timestamp=0, end_timestamp=0, min_timestamp=0, max_timestamp=0,
        record_count=count, block_count=1, raw_bytes=_kbak_raw_bytes(data), stored_bytes=len(data), max_record_bytes=0, sha256="",
    )  # fmt: skip
    store = MemoryStore("memory://fuzz")
    store.put(f"nightly/{reference.key}", data)
    reader = KbakReader(store, "nightly", reference, max_block_bytes=2**20)
    return [block for _entry, block in reader.stream(lambda _entry: True)]


def _kbak_raw_bytes(data: bytes) -> int:
    """Of a segment's body, as its manifest would say it; some number where it can't be decompressed."""
    body = data[32:-8]
    if data[5] == 2:
        return int.from_bytes(body[:4], "little")
    if data[5] != 1:
        return len(body)
    try:
        with zstandard.ZstdDecompressor(max_window_size=2**27).stream_reader(body) as stream:
            return len(stream.read(2**20))
    except zstandard.ZstdError:
        return 2000


def _offset_map(data: bytes) -> object:
    file = offset_map_parser.OffsetMapFile(_reader(data), len(data), name=_NAME)
    return [(one.source(0), len(one), list(one.sources())) for one in map(file.group, range(len(file.groups)))]


def _block_index(data: bytes) -> object:
    footer_bytes = int.from_bytes(data[-8:-4], "little") + 8
    fits: Any = _FitsAll()
    entry = PieceEntry(
        name=f"blocks-{'0' * 32}.parquet", run="0" * 32, level=0, size_bytes=len(data), footer_bytes=footer_bytes,
        footer_sha256=hashlib.sha256(data[-footer_bytes:]).hexdigest(), row_count=fits, segment_count=fits, first=fits, last=fits,
        min_timestamp=fits, max_timestamp=fits,
    )  # fmt: skip
    piece = block_index_parser.BlockIndexPiece(_reader(data), entry, backup_id="nightly", name=_NAME)
    found = []
    for number in range(len(piece.groups)):
        group = piece.group(number)
        found.append([group.blocks(rows) for run in group.runs for rows in group.segments_of(run)])
    return found


def _reader(data: bytes) -> Callable[[int, int], bytes]:
    def read(start: int, size: int) -> bytes:
        if start < 0 or size < 0 or start + size > len(data):
            raise KbrError(f"{_NAME} ends before that")  # as a store says it
        return data[start : start + size]

    return read


def _lock(data: bytes) -> object:
    lock = parse_lock(data)
    if lock is not None and parse_lock(dump_lock(lock)) != lock:
        raise Wrong("a lock that was read can't be written and read again")
    return lock


def _config(data: bytes) -> object:
    path = _config.path  # type: ignore[attr-defined]
    path.write_bytes(data)
    return load_config(path, environ={"X": "1"}, run_commands=False)


def _values(data: bytes) -> object:
    text = data.decode("utf-8", "surrogateescape")
    found = []
    for name in config_values.__all__:
        if name.startswith("parse_"):
            try:
                found.append(getattr(config_values, name)(text))
            except ValueError as error:
                if not str(error).isprintable():
                    raise Wrong(f"{name} says what can't be shown: {error!a}") from error
    return found or None


#: Target: what reads it, how inputs are made of its corpus, and whether a JSON document has a seal.
TARGETS: dict[str, tuple[Callable[[bytes], object], str]] = {
    "manifest": (_manifest, "sealed"),
    "oso_manifest": (_oso_manifest, "json"),
    "oso_groups": (lambda data: load_oso_groups(data, backup_id="nightly", name=_NAME), "json"),
    "kbak": (_kbak, "bytes"),
    "segment": (_segment, "segment"),
    "groups": (lambda data: _again(load_groups(data, name=_NAME), dump_groups, load_groups), "sealed"),
    "rollback": (lambda data: _again(load_rollback(data, name=_NAME), dump_rollback, load_rollback), "sealed"),
    "restore_state": (
        lambda data: _again(load_restore_state(data, name=_NAME), dump_restore_state, load_restore_state),
        "sealed",
    ),
    "lock": (_lock, "json"),
    "offset_map": (_offset_map, "parquet"),
    "block_index": (_block_index, "parquet"),
    "index_head": (lambda data: load_head(data, name=_NAME), "sealed"),
    "config": (_config, "text"),
    "values": (_values, "text"),
}


# -- inputs -----------------------------------------------------------------------------------


def mutated(seed: bytes, seeds: Sequence[bytes], kind: str, source: random.Random) -> bytes:
    """One input; one in four is changed as bytes, whatever it is."""
    if kind == "bytes" or source.randrange(4) == 0:
        return mutate_bytes(seed, seeds, source)
    if kind == "text":
        other = [one.decode() for one in seeds]
        return mutate_text(seed.decode(), other, source).encode("utf-8", "surrogateescape")
    if kind == "segment":
        return _resized_index(seed, seeds, source)
    if kind == "parquet":
        return mutate_bytes(seed, seeds, source) if source.randrange(2) else _with_directory(seed, source)
    document = mutate_json(json.loads(seed), source)
    if kind == "json" or not isinstance(document, dict):
        return json.dumps(document).encode()
    return _sealed(document)


def _sealed(document: dict[str, Any]) -> bytes:
    document.pop("sha256", None)
    body = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")
    return body[:-1] + b',"sha256":"%b"}' % hashlib.sha256(body[:-1]).hexdigest().encode()


def _with_directory(seed: bytes, source: random.Random) -> bytes:
    """A Parquet file whose own JSON in the footer is changed and sealed again."""
    start = seed.rindex(b'{"format"')
    end = seed.index(b'"}', seed.index(b'"sha256"', start)) + 2
    before = varint(end - start)
    assert seed[start - len(before) : start] == before
    document = mutate_json(json.loads(seed[start:end]), source)
    changed = _sealed(document) if isinstance(document, dict) else json.dumps(document).encode()
    data = seed[: start - len(before)] + varint(len(changed)) + changed + seed[end:-8]
    size = int.from_bytes(seed[-8:-4], "little") + len(data) - len(seed) + 8
    return data + size.to_bytes(4, "little") + b"PAR1"


def _resized_index(seed: bytes, seeds: Sequence[bytes], source: random.Random) -> bytes:
    """A segment whose index is changed, and framed as it should be."""
    size = int.from_bytes(seed[-24:-20], "little")
    packed = mutate_bytes(seed[-24 - size : -24], seeds, source)
    frames = seed[: -24 - size - 8]
    head = b"\x5b\x2a\x4d\x18" + (len(packed) + 24).to_bytes(4, "little")
    tail = len(packed).to_bytes(4, "little") + zlib.crc32(packed).to_bytes(4, "little") + len(frames).to_bytes(8, "little")
    return frames + head + packed + tail + b"KBRSEGv1"


# -- running ----------------------------------------------------------------------------------


class Runner:
    """Puts inputs through one target and counts."""

    def __init__(self, target: str, last: Path | None) -> None:
        self.read, self.kind = TARGETS[target]
        self.last = last
        self.tried = self.values = 0
        self.slowest = 0.0

    def run(self, data: bytes) -> bool:
        """One input: whether it gave a value; raises what must not be."""
        if self.last is not None:
            self.last.write_bytes(data)
        begun = time.process_time()
        self.tried += 1
        try:
            found = self.read(data) is not None
        except KbrError as error:
            found = False
            if len(error.message) > 30_000:
                raise Wrong(f"a message of {len(error.message)} characters") from error
        took = time.process_time() - begun
        self.slowest = max(self.slowest, took)
        if took > CPU_LIMIT_S:
            raise Wrong(f"took {took:.1f} s of CPU")
        self.values += found
        return found


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("target", choices=sorted(TARGETS))
    parser.add_argument("--inputs", type=int)
    parser.add_argument("--seconds", "--time", type=float)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--last", type=Path)
    parser.add_argument("--replay", type=Path)
    return parser.parse_args()


def main() -> int:
    options = _options()
    offset_map_parser.zlib = block_index_parser.zlib = _Zlib  # type: ignore[attr-defined, assignment]
    runner = Runner(options.target, options.last)
    files = sorted((CORPUS / options.target).iterdir())
    seeds = [path.read_bytes() for path in files]
    _config.path = Path(f"/tmp/kbr-fuzz-{random.SystemRandom().randrange(2**60):x}.yaml")  # type: ignore[attr-defined]
    if options.replay:
        print(runner.run(options.replay.read_bytes()))
        return 0
    for path, data in zip(files, seeds, strict=True):
        if runner.run(data) != path.name.startswith("good"):
            raise Wrong(f"{path.name} gives {'a value' if not path.name.startswith('good') else 'none'}")
    good = [data for path, data in zip(files, seeds, strict=True) if path.name.startswith("good")]
    source = random.Random(options.seed)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begun = time.monotonic()
    until = begun + (options.seconds or (float("inf") if options.inputs else 30.0))
    runner.tried = runner.values = 0
    failed, data = "", b""
    try:
        while runner.tried < (options.inputs or sys.maxsize) and time.monotonic() < until:
            faulthandler.dump_traceback_later(60, exit=True)
            data = mutated(source.choice(good), seeds, runner.kind, source)
            runner.run(data)
    except Exception:  # it is what is looked for, and goes into the result with its input
        failed = traceback.format_exc()[-1500:]
    faulthandler.cancel_dump_traceback_later()
    _config.path.unlink(missing_ok=True)  # type: ignore[attr-defined]
    seconds = time.monotonic() - begun
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    if not failed and grown >= GROWTH_LIMIT_KIB:
        failed = f"memory grew by {grown} KiB"
    result = {
        "target": options.target,
        "seed": options.seed,
        "inputs": runner.tried,
        "values": runner.values,
        "seconds": round(seconds, 1),
        "slowest_cpu_ms": round(runner.slowest * 1000, 1),
        "memory_growth_kib": grown,
    }
    if failed:
        result |= {"failed": failed, "input": data.hex()[:20_000]}
    print(json.dumps(result))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
