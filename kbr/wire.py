"""The only importer of msgpack and orjson: bytes to plain values and back, with bounds."""

from __future__ import annotations

from typing import Any

import msgpack
import orjson

__all__ = ["dump_json", "dump_msgpack", "load_json", "load_msgpack"]

#: JSON up to this size is parsed whatever it holds, bytes: the worst, objects of one entry, take 25 times as much memory.
_SMALL_JSON_BYTES = 512 * 1024


def dump_json(value: Any, *, indent: bool = False) -> bytes:
    """JSON, UTF-8, keys in the order given."""
    return orjson.dumps(value, option=orjson.OPT_INDENT_2 if indent else 0)


def load_json(
    data: bytes, *, bytes_per_object: int = 16, bytes_per_array: int = 6, bytes_per_value: int = 2
) -> Any:
    """Parse JSON, of which a general parser makes many times as much: an empty array of 3 bytes takes 64.

    Args:
        data: the text.
        bytes_per_object, bytes_per_array, bytes_per_value: what is larger than 512 KiB holds no more of each than its
            size divided by this, so that memory is bounded by what such a document has; one that holds more is refused
            before anything is made of it.

    Raises:
        ValueError: not JSON (orjson rejects NaN, bad UTF-8 and nesting over 1,024 levels), or too dense.
    """
    if len(data) > _SMALL_JSON_BYTES:
        # those within texts count, too: what tells them apart takes more memory than it spares
        most = {b"{": bytes_per_object, b"[": bytes_per_array, b",": bytes_per_value}
        if any(data.count(sign) > len(data) // least for sign, least in most.items()):
            raise ValueError(f"more values in {len(data)} bytes than such a document has")
    return orjson.loads(data)


def dump_msgpack(value: Any) -> bytes:
    """msgpack; ``bytes`` as bin, ``str`` as str."""
    packed: bytes = msgpack.packb(value, use_bin_type=True)
    return packed


def load_msgpack(data: bytes | memoryview, *, unique_keys: bool = False) -> Any:
    """Parse exactly one msgpack value; every declared length is bounded by the input's size.

    Args:
        unique_keys: a key that stands twice in a map is an error; else the last one counts.

    Raises:
        ValueError: not msgpack, trailing bytes, or a length that the input can't hold.
    """
    size = len(data)
    try:
        return msgpack.unpackb(
            data,
            raw=False,
            strict_map_key=True,
            max_str_len=size,
            max_bin_len=size,
            max_array_len=size,
            max_map_len=size,
            max_ext_len=size,
            object_pairs_hook=_unique if unique_keys else None,
        )
    except ValueError:
        raise
    except (msgpack.UnpackException, RecursionError) as error:
        raise ValueError(str(error) or type(error).__name__) from error


def _unique(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice in a map")
    return found
