"""Feeds mutated blocks to the compiled decoder; run by scripts/fuzz under AddressSanitizer and UBSan.

    harness.py FOLDER SECONDS INPUTS SEED     FOLDER holds the instrumented extension

Stops at SECONDS or INPUTS, whichever comes first. Passes only if every input is decoded or refused with a
CodecError, none takes longer than a second, and memory stays flat. Prints one JSON line.
"""

from __future__ import annotations

import json
import random
import resource
import signal
import sys
import time
from pathlib import Path

INTERESTING = (0x00, 0x01, 0x7F, 0x80, 0x8A, 0x90, 0x9F, 0xA0, 0xC0, 0xC1, 0xC4, 0xC6, 0xCC, 0xCF, 0xD3, 0xDB, 0xDC, 0xDD, 0xDE, 0xDF, 0xE0, 0xFF)
#: Lengths and counts that want too much, too little, or wrap.
HUGE = (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\x00\x00\x00", b"\x00\x00\x00\x00", b"\xff" * 8, b"\x7f" + b"\xff" * 7)
#: Memory that decoding many small inputs may add, KiB: the allocator's and the sanitizer's own.
GROWTH_LIMIT_KIB = 64 * 1024


def corpus(codec, source: random.Random) -> list[bytes]:  # noqa: ANN001
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
        found.append(codec.encode_block(records))
    return found


def mutate(block: bytes, others: list[bytes], source: random.Random) -> bytes:
    """One to four changes."""
    data = bytearray(block)
    for _ in range(source.choice((1, 1, 1, 2, 4))):
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
            other = source.choice(others)
            data[at:] = other[source.randrange(len(other)) :]
        else:
            data[at:at] = data[at : at + source.choice((1, 5, 30))]
    return bytes(data)


def main() -> int:
    """Run."""
    folder, seconds, inputs, seed = sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    sys.path.insert(0, folder)
    import kbr_codec

    assert Path(kbr_codec._block.__file__).is_relative_to(folder), kbr_codec._block.__file__
    source = random.Random(seed)
    blocks = corpus(kbr_codec, source)

    def hang(_number: int, _frame: object) -> None:
        raise TimeoutError("an input took longer than a second")

    signal.signal(signal.SIGALRM, hang)
    for block in blocks:
        kbr_codec.decode_block(block)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    until = time.monotonic() + seconds
    tried = refused = 0
    current = b""
    try:
        while tried < inputs and time.monotonic() < until:
            for _ in range(500):
                current = mutate(source.choice(blocks), blocks, source)
                signal.setitimer(signal.ITIMER_REAL, 1.0)
                for decode in (kbr_codec.scan_block, kbr_codec.decode_block):
                    try:
                        decode(current)
                    except kbr_codec.CodecError:
                        refused += 1
                signal.setitimer(signal.ITIMER_REAL, 0)
                tried += 1
    except BaseException as error:
        print(json.dumps({"failed": repr(error), "input": current.hex(), "tried": tried}))
        return 1
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(json.dumps({"inputs": tried, "refused_calls": refused, "seed": seed, "memory_growth_kib": grown}))
    return 0 if grown < GROWTH_LIMIT_KIB else 1


if __name__ == "__main__":
    sys.exit(main())
