"""Looks for marked secrets in whatever was written: as they are, escaped, encoded, compressed. Shares no code with kbr.

A marker is a text that stands nowhere by chance. What hides it from a plain search is undone first: compressed files are
unpacked, Parquet is read; then each of the forms below is searched for.
"""

from __future__ import annotations

import base64
import html
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote, quote_plus

import lz4.frame
import pyarrow.parquet
import zstandard

__all__ = ["forms_of", "leaks_in", "leaks_in_files", "text_of"]

_SKIPPABLE = range(0x184D2A50, 0x184D2A60)


def forms_of(marker: str) -> dict[str, bytes]:
    """Each way in which a marker may be written, by name."""
    plain = marker.encode()
    forms = {
        "as it is": plain,
        "JSON": json.dumps(marker)[1:-1].encode(),
        "JSON in JSON": json.dumps(json.dumps(marker))[3:-3].encode(),
        "repr": repr(marker)[1:-1].encode(),
        "repr of bytes": repr(plain)[2:-1].encode(),
        "percent": quote(marker, safe="").encode(),
        "percent, slashes kept": quote(marker).encode(),
        "form": quote_plus(marker).encode(),
        "HTML": html.escape(marker).encode(),
        "hex": plain.hex().encode(),
        "upper hex": plain.hex().upper().encode(),
        "UTF-16": marker.encode("utf-16-le"),
        "backwards": plain[::-1],
    }
    for name in ("percent", "percent, slashes kept", "form"):
        forms[f"{name}, lower case"] = forms[name].lower() if marker.lower() == marker else _lower_escapes(forms[name])
    for lead in range(3):
        encoded = base64.b64encode(b"\0" * lead + plain)
        # without what the bytes before and behind it have a part in
        core = encoded[-(-8 * lead // 6) : 8 * (lead + len(plain)) // 6]
        forms[f"base64 at {lead}"] = core
        forms[f"base64url at {lead}"] = core.replace(b"+", b"-").replace(b"/", b"_")
    return forms


def _lower_escapes(quoted: bytes) -> bytes:
    out = bytearray(quoted)
    for position, byte in enumerate(quoted):
        if byte == ord("%"):
            out[position + 1 : position + 3] = quoted[position + 1 : position + 3].lower()
    return bytes(out)


def leaks_in(where: str, data: bytes | str, markers: Mapping[str, str]) -> list[str]:
    """A line for each marker (by name) that shows in ``data``, with the form and the words around it."""
    content = data.encode("utf-8", "surrogateescape") if isinstance(data, str) else data
    found = []
    for name, marker in markers.items():
        for form, written in forms_of(marker).items():
            at = content.find(written)
            if at >= 0:
                around = content[max(0, at - 80) : at + len(written) + 20]
                found.append(f"{where}: {name} ({form}) at {at}: {around!r}")
                break
    return found


def leaks_in_files(folders: Iterable[Path], markers: Mapping[str, str]) -> list[str]:
    """The same for all files below some folders, their names and paths included; sockets are told by name only."""
    found = []
    for folder in folders:
        for path in _files(folder):
            found += leaks_in(f"the name of {path}", str(path), markers)
            if path.is_file() and not path.is_symlink():
                found += leaks_in(str(path), text_of(path.read_bytes()), markers)
    return found


def _files(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        yield from (Path(parent, name) for name in [*folders, *names])


def text_of(data: bytes) -> bytes:
    """A file's bytes, and behind them what can be unpacked of them."""
    out = io.BytesIO()
    out.write(data)
    if data.startswith(b"PAR1"):
        table = pyarrow.parquet.read_table(io.BytesIO(data))
        out.write(repr(table.schema.metadata).encode())
        out.write(repr(table.to_pylist()).encode())
    elif data[:4] == b"\x28\xb5\x2f\xfd":
        _unpack_zstd(data, out)
    elif data[:4] == b"\x04\x22\x4d\x18":
        with suppress(RuntimeError):  # what follows the frames is no frame
            out.write(lz4.frame.decompress(data))
    return out.getvalue()


def _unpack_zstd(data: bytes, out: io.BytesIO) -> None:
    """All frames of a segment; skippable ones are plain."""
    while len(data) >= 8:
        if int.from_bytes(data[:4], "little") in _SKIPPABLE:
            data = data[8 + int.from_bytes(data[4:8], "little") :]
            continue
        frame = zstandard.ZstdDecompressor().decompressobj()
        out.write(frame.decompress(data))
        data = frame.unused_data
