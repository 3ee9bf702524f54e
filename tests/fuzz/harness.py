"""Feeds mutated blocks to the compiled decoder; run by scripts/fuzz under AddressSanitizer and UBSan.

    harness.py --folder FOLDER [--inputs N] [--seconds S] [--seed X] [--last FILE | --replay FILE]

FOLDER holds the instrumented extension. Stops at --inputs or --seconds, whichever comes first; with --inputs alone
a seed always gives the same inputs. Passes only if every input is decoded or refused with a CodecError, by scan_block
and decode_block alike (and by kbr_codec.pure, for some), none takes a second of CPU, and memory stays flat.
Prints one JSON line. FILE holds the input under work, so that one that ends the process is not lost.

Inputs stand in memory that ends with their last byte: bytes objects have a NUL behind them, which would hide
a read of one byte too many.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import mmap
import random
import resource
import struct
import sys
import time
from array import array
from pathlib import Path

INTERESTING = (0x00, 0x01, 0x7F, 0x80, 0x8A, 0x90, 0x9F, 0xA0, 0xC0, 0xC1, 0xC4, 0xC6, 0xCC, 0xCF, 0xD3, 0xDB, 0xDC, 0xDD, 0xDE, 0xDF, 0xE0, 0xFF)
#: Lengths and counts that want too much, too little, or wrap.
HUGE = (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\x00\x00\x00", b"\x00\x00\x00\x00", b"\xff" * 8, b"\x7f" + b"\xff" * 7)
#: Integers at the edges of msgpack's formats and of int64, and beyond.
EDGES = (0, 1, -1, 2, 3, 127, 128, -32, -33, 255, 256, 2**16 - 1, 2**16, 2**31 - 1, 2**31, -(2**31), 2**32 - 1, 2**32, 2**63 - 1, -(2**63), 2**63, 2**64 - 1)
#: Memory that decoding many small inputs may add, KiB: the allocator's and the sanitizer's own.
GROWTH_LIMIT_KIB = 64 * 1024
#: One input in so many goes through the pure codec, too.
PURE_EVERY = 64
#: And one in so many through what gives ranges and routes.
DERIVED_EVERY = 4
BATCH = 500
LAST_BYTES = 2**20

# -- msgpack, as far as a block has it -----------------------------------------------------

_FIXED = {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8}
_SIZED = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
_COUNTED = {0xDC: 2, 0xDD: 4, 0xDE: 2, 0xDF: 4}


def items(block: bytes) -> list[tuple[int, int, str]]:
    """Where each item of a valid block begins, where it ends (an array's or map's head only), and its kind."""
    found = []
    at = 0
    while at < len(block):
        head = block[at]
        end, kind = at + 1, "int"
        if head in _FIXED:
            end += _FIXED[head]
        elif head in _SIZED:
            width = _SIZED[head]
            end += width + int.from_bytes(block[at + 1 : at + 1 + width], "big")
            kind = "bin" if head < 0xD9 else "str"
        elif head in _COUNTED:
            end += _COUNTED[head]
            kind = "head"
        elif 0xA0 <= head <= 0xBF:
            end += head & 0x1F
            kind = "str"
        elif 0x80 <= head <= 0x9F:
            kind = "head"
        elif head == 0xC0:
            kind = "nil"
        found.append((at, end, kind))
        at = end
    return found


def some_integer(source: random.Random) -> bytes:
    """An integer, often one that must not be there, in a format that need not be the shortest."""
    value = source.choice(EDGES)
    layouts = [
        layout
        for layout, low, high in (
            (b"\xd3>q", -(2**63), 2**63 - 1),
            (b"\xcf>Q", 0, 2**64 - 1),
            (b"\xd2>i", -(2**31), 2**31 - 1),
            (b"\xce>I", 0, 2**32 - 1),
            (b"\xd1>h", -(2**15), 2**15 - 1),
            (b"\xcd>H", 0, 2**16 - 1),
            (b"\xd0>b", -128, 127),
            (b"\xcc>B", 0, 255),
        )
        if low <= value <= high
    ]
    layout = source.choice(layouts)
    return layout[:1] + struct.pack(layout[1:].decode(), value)


def some_head(source: random.Random, kind: bytes) -> bytes:
    """The head of a bin, array or other item with a length that need not be there."""
    code = source.choice(kind)
    width = (_SIZED | _COUNTED)[code]
    return bytes([code]) + source.choice((source.randrange(40), 0, 2 ** (8 * width) - 1, 2 ** (8 * width - 1))).to_bytes(width, "big")


def widened(block: bytes, start: int, end: int, kind: str) -> bytes:
    """The same item in its widest format: still valid."""
    item = block[start:end]
    head = item[0]
    if kind == "int":
        if head <= 0x7F or head >= 0xE0:
            value = head if head <= 0x7F else head - 256
        else:
            value = int.from_bytes(item[1:], "big", signed=head >= 0xD0)
        return b"\xd3" + struct.pack(">q", value)
    if kind == "head":
        if head <= 0x9F:
            count, is_map = head & 0x0F, head < 0x90
        else:
            count, is_map = int.from_bytes(item[1:], "big"), head >= 0xDE
        return (b"\xdf" if is_map else b"\xdd") + struct.pack(">I", count)
    if kind == "nil":
        return item
    body = item[1:] if 0xA0 <= head <= 0xBF else item[1 + _SIZED[head] :]
    return (b"\xc6" if kind == "bin" else b"\xdb") + struct.pack(">I", len(body)) + body


class Seed:
    """A valid block and its items."""

    def __init__(self, block: bytes) -> None:
        self.block = block
        self.items = items(block)


def corpus(codec, source: random.Random) -> list[Seed]:
    """Valid blocks of many shapes."""
    found = []
    for _ in range(60):
        records = []
        offset = source.randrange(2**40)
        for _ in range(source.choice((1, 2, 3, 15, 16, 17, 40))):
            offset += source.choice((1, 1, 1, 2, 1000, 2**33))
            headers = tuple(
                (source.randbytes(source.randrange(4)), source.choice((None, b"", source.randbytes(3))))
                for _ in range(source.choice((0, 0, 0, 1, 3)))
            )
            records.append(
                codec.Record(
                    offset,
                    source.choice((-1, 0, 1_714_564_800_000, 2**63 - 1, -(2**63), source.randrange(2**41))),
                    source.choice((0, 1, 1, 1, 2)),
                    source.choice((None, b"", source.randbytes(8))),
                    source.choice((None, b"", source.randbytes(source.choice((3, 40, 300))))),
                    headers,
                )
            )
        block = codec.encode_block(records)
        found.append(Seed(block))
        if len(found) % 4 == 0:  # the same once more in the widest formats
            found.append(Seed(b"".join(widened(block, *item) for item in found[-1].items)))
    return found


def mutate_items(seed: Seed, others: list[Seed], source: random.Random) -> bytes:
    """A change that leaves the bytes msgpack, mostly: of one whole item."""
    block = seed.block
    start, end, kind = source.choice(seed.items)
    what = source.randrange(6)
    if what == 0:
        new = some_integer(source)
    elif what == 1:
        new = widened(block, start, end, kind)
    elif what == 2:
        new = some_head(source, b"\xdc\xdd\xde\xdf" if kind == "head" else b"\xc4\xc5\xc6\xd9\xda\xdb")
        if kind in ("bin", "str"):  # keep the body, lie about its length
            new += block[end - min(end - start - 1, 8) : end]
    elif what == 3:
        new = source.choice((b"", b"\xc0", b"\xc4\x00", b"\x90", b"\xdc\x00\x02", b"\xc3", b"\xcb" + b"\x00" * 8, b"\xc1"))
    elif what == 4:
        new = block[start:end] * 2
    else:
        other = source.choice(others)
        other_start, other_end, _kind = source.choice(other.items)
        new = other.block[other_start:other_end]
    return block[:start] + new + block[end:]


def mutate(seed: Seed, others: list[Seed], source: random.Random) -> bytes:
    """One to four changes, of items or of bytes."""
    changes = source.choice((1, 1, 1, 2, 4))
    if source.randrange(2):
        data = bytearray(mutate_items(seed, others, source))
        changes -= 1
    else:
        data = bytearray(seed.block)
    for _ in range(changes):
        if not data:
            break
        at = source.randrange(len(data))
        kind = source.randrange(8)
        if kind == 0:
            data[at] ^= 1 << source.randrange(8)
        elif kind == 1:
            data[at] = source.choice(INTERESTING)
        elif kind == 2:
            del data[at:]
        elif kind == 3:
            del data[at : at + source.choice((1, 2, 8))]
        elif kind == 4:
            data[at:at] = source.choice(HUGE)
        elif kind == 5:
            piece = source.choice(HUGE)
            data[at : at + len(piece)] = piece
        elif kind == 6:
            other = source.choice(others).block
            data[at:] = other[source.randrange(len(other)) :]
        else:
            data[at:at] = data[at : at + source.choice((1, 5, 30))]
    return bytes(data)


# -- running -------------------------------------------------------------------------------


class Wrong(Exception):
    """What the codec must not do."""


class Runner:
    """Puts inputs through the codec and counts."""

    def __init__(self, codec, last: mmap.mmap | None) -> None:
        from kbr_codec import pure

        self.codec = codec
        self.pure = pure
        self.last = last
        self.tried = self.decoded = self.compared = 0
        self.slowest = 0.0

    def _outcome(self, decode, data):
        try:
            return decode(data)
        except self.codec.CodecError as error:
            return type(error), error.position

    def _derived(self, exact):
        """Ranges, routes and counts of a block, each by its own walk through it; the window takes the larger half."""
        window = {"timestamp_from": 0, "timestamp_to": 2**63 - 1}
        route = {"partitioner": 1 + self.tried % 3, "count": 7, "position": self.tried % 5}
        counts = array("q", [0] * 7)
        return (
            self._outcome(lambda data: self.codec.offset_ranges(data, **window), exact),
            self._outcome(lambda data: self.codec.route_ranges(data, **route, **window), exact),
            self._outcome(lambda data: (self.codec.count_routes(data, counts, **route, **window), sum(counts)), exact),
        )

    def _check_derived(self, decoded, ranges, routes, counted):
        inside = [record.offset for record in decoded if record.timestamp >= 0]
        for starts, counts in (ranges[:2], routes[:2]):
            pairs = zip(array("q", starts), array("q", counts), strict=True)
            if [start + n for start, count in pairs for n in range(count)] != inside:
                raise Wrong(f"ranges of other records than decode_block gives: {ranges}, {routes}")
        if counted != (len(decoded), len(inside)):
            raise Wrong(f"count_routes says {counted} of {len(decoded)} records, {len(inside)} of them in the window")

    def run(self, data: bytes) -> None:
        """One input; raises Wrong, or whatever came that is no CodecError."""
        if self.last is not None:
            self.last[: 8 + len(data)] = struct.pack(">Q", len(data)) + data
        exact = array("B", data)[:]  # a copy has no room to grow: it ends where the input does
        begin = time.process_time()  # its own, whatever else the machine does
        scanned = self._outcome(self.codec.scan_block, exact)
        decoded = self._outcome(self.codec.decode_block, exact)
        derived = self._derived(exact) if self.tried % DERIVED_EVERY == DERIVED_EVERY - 1 else None
        took = time.process_time() - begin
        self.tried += 1
        self.slowest = max(self.slowest, took)
        if took > 1:
            raise Wrong(f"took {took:.1f} s of CPU")
        if isinstance(decoded, list):
            self.decoded += 1
            if isinstance(scanned, self.codec.BlockStats) and scanned.record_count == len(decoded):
                if self.codec.decode_block(self.codec.encode_block(decoded)) != decoded:
                    raise Wrong("what was decoded can't be encoded and decoded again")
            else:
                raise Wrong(f"scan_block says {scanned}, decode_block decodes")
            if derived is not None:
                self._check_derived(decoded, *derived)
        elif scanned != decoded:
            raise Wrong(f"scan_block says {scanned}, decode_block {decoded}")
        elif derived is not None and set(derived) != {decoded}:
            raise Wrong(f"decode_block says {decoded}, what gives ranges {derived}")
        if self.tried % PURE_EVERY == 0:
            self.compared += 1
            plain = self._outcome(self.pure.decode_block, data)
            if plain != decoded:
                raise Wrong(f"compiled: {str(decoded)[:300]}, pure: {str(plain)[:300]}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", required=True)
    parser.add_argument("--inputs", type=int)
    parser.add_argument("--seconds", "--time", type=float)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--last")
    parser.add_argument("--replay")
    options = parser.parse_args()
    if options.inputs is None and options.seconds is None:
        options.seconds = 30.0
    return options


def main() -> int:
    """Run."""
    options = _options()
    sys.path.insert(0, options.folder)
    import kbr_codec

    for module in (kbr_codec._block, kbr_codec._route):
        assert Path(module.__file__).is_relative_to(options.folder), module.__file__
    if options.replay:
        stored = Path(options.replay).read_bytes()
        data = stored[8 : 8 + int.from_bytes(stored[:8], "big")]
        runner = Runner(kbr_codec, None)
        runner.tried = PURE_EVERY - 1
        print(data.hex(), flush=True)
        runner.run(data)
        return 0
    source = random.Random(options.seed)
    seeds = corpus(kbr_codec, source)
    last = None
    if options.last:
        with open(options.last, "w+b") as file:
            file.truncate(LAST_BYTES)
            last = mmap.mmap(file.fileno(), LAST_BYTES)
    runner = Runner(kbr_codec, last)
    for seed in seeds:
        runner.run(seed.block)
    if runner.decoded != len(seeds):
        raise Wrong("a valid block was refused")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    limit = options.inputs or sys.maxsize
    begin = time.monotonic()
    until = begin + (options.seconds or float("inf"))
    runner.tried = runner.decoded = runner.compared = 0
    failed = ""
    data = b""
    try:
        while runner.tried < limit and time.monotonic() < until:
            # a loop in C would never come back: a thread of the interpreter's own ends the process
            faulthandler.dump_traceback_later(30, exit=True)
            for _ in range(min(BATCH, limit - runner.tried)):
                data = mutate(source.choice(seeds), seeds, source)
                runner.run(data)
    except Exception as error:
        failed = repr(error)
    faulthandler.cancel_dump_traceback_later()
    seconds = time.monotonic() - begin
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    if not failed and grown >= GROWTH_LIMIT_KIB:
        failed = f"memory grew by {grown} KiB"
    result = {
        "seed": options.seed,
        "inputs": runner.tried,
        "decoded": runner.decoded,
        "compared_with_pure": runner.compared,
        "seconds": round(seconds, 1),
        "inputs_per_second": round(runner.tried / seconds) if seconds else 0,
        "slowest_cpu_ms": round(runner.slowest * 1000, 2),
        "memory_growth_kib": grown,
    }
    if failed:
        result |= {"failed": failed, "input": data.hex()}
    print(json.dumps(result))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
