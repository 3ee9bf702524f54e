"""Changes to inputs, by a random source: of bytes, of JSON values, of texts. Pure."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any

__all__ = ["mutate_bytes", "mutate_json", "mutate_text"]

_BYTES = (0x00, 0x01, 0x0C, 0x19, 0x1C, 0x7F, 0x80, 0x90, 0xC0, 0xDD, 0xDF, 0xF9, 0xFC, 0xFF)
_HUGE = (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff\x07", b"\xff" * 9 + b"\x01", b"\0\0\0\0", b"\x80\x00\x00\x00")
_NUMBERS: tuple[Any, ...] = (0, 1, -1, 2, 255, 2**31 - 1, 2**31, 2**32, 2**63 - 1, 2**63, -(2**63), 2**64, 1.5, 1e308)
_TEXTS = ("", ".", "..", "a/b", "../../x", "a\0b", "\x1b[2J", "\u202e", "é", "=1+1", "t" * 250, "0" * 64, "f" * 32, "complete", "zstd", "none")
_TOKENS = (
    "", " ", "\n", "\t", ":", "- ", "? ", "|", ">", "&a", "*a", "<<:", "!!", "!t", "[", "]", "{", "}", ",", "#", "%", "---", "...", "'", '"',
    "${X}", "${file:/dev/null}", "$", "${", "\\x", "\\uD800", "\x00", "\x1b", "\u2028", "\ufeff", "null", "~", "true", "1e9", "0x10",
    "1_000", "-1", "9" * 30, "0.5", "1.", "MiB", "MB/s", "kB", "h", "ms", "P1D", "PT", "T", "Z", "+25:00", "2024-13-41", "2024-02-30T00:00",
    "storage", "url", "source", "topics", "include", "client", "backup_id", "limits", "restore", "partition_mapping",
)  # fmt: skip


def mutate_bytes(data: bytes, others: Sequence[bytes], source: random.Random) -> bytes:
    """One to four changes."""
    changed = bytearray(data)
    for _ in range(source.choice((1, 1, 1, 2, 4))):
        at = source.randrange(len(changed) + 1)
        kind = source.randrange(8)
        if kind == 0 and at < len(changed):
            changed[at] ^= 1 << source.randrange(8)
        elif kind == 1 and at < len(changed):
            changed[at] = source.choice(_BYTES)
        elif kind == 2:
            del changed[at : at + source.choice((1, 2, 8, 100))]
        elif kind == 3:
            changed[at:at] = source.choice(_HUGE)
        elif kind == 4:
            piece = source.choice(_HUGE)
            changed[at : at + len(piece)] = piece
        elif kind == 5:
            other = source.choice(others)
            begin = source.randrange(len(other) + 1)
            changed[at : at + 16] = other[begin : begin + source.choice((1, 16, 200))]
        elif kind == 6:
            changed[at:at] = changed[at : at + source.choice((1, 5, 30))]
        else:
            del changed[at:]
    return bytes(changed)


def mutate_json(document: Any, source: random.Random) -> Any:
    """A copy with one to three values that are others, gone, twice, or of another kind."""
    changed = json.loads(json.dumps(document))
    for _ in range(source.choice((1, 1, 2, 3))):
        node = changed
        while True:
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            if not keys:
                break
            key = source.choice(keys)
            if isinstance(node[key], (dict, list)) and source.randrange(4):
                node = node[key]
                continue
            _change(node, key, source)
            break
    return changed


def _change(node: Any, key: Any, source: random.Random) -> None:
    kind = source.randrange(9)
    if kind == 0:
        del node[key]
    elif kind == 1:
        node[key] = None
    elif kind == 2:
        node[key] = source.choice((True, False, [], {}, [[]], {"a": 1}, [1, "a", None]))
    elif kind == 3 and isinstance(node[key], (int, float)):
        node[key] += source.choice((1, -1, 1000))
    elif kind in (3, 4):
        node[key] = source.choice(_NUMBERS)
    elif kind == 5:
        node[key] = source.choice(_TEXTS)
    elif kind == 6 and isinstance(node, list):
        node.insert(key, node[key])
    elif kind == 7 and isinstance(node, list) and len(node) > 1:
        source.shuffle(node)
    else:
        other = source.choice(list(node) if isinstance(node, dict) else range(len(node)))
        node[key], node[other] = node[other], node[key]


def mutate_text(text: str, others: Sequence[str], source: random.Random) -> str:
    """One to four tokens put in, taken out or taken from another text."""
    for _ in range(source.choice((1, 1, 2, 4))):
        at = source.randrange(len(text) + 1)
        kind = source.randrange(5)
        if kind == 0:
            text = text[:at] + text[at + source.choice((1, 3, 20)) :]
        elif kind in (1, 2):
            text = text[:at] + source.choice(_TOKENS) + text[at:]
        elif kind == 3:
            other = source.choice(others)
            begin = source.randrange(len(other) + 1)
            text = text[:at] + other[begin : begin + source.choice((3, 20, 200))] + text[at:]
        else:
            text = text[:at] + text[at : at + 20] * source.choice((2, 30)) + text[at:]
    return text
