"""The searcher finds a marker in every disguise: a search that finds nothing has to mean that nothing is there."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from urllib.parse import quote, quote_plus

import lz4.frame
import pyarrow as pa
import pyarrow.parquet
import pytest
import zstandard

from tests.support.leaks import leaks_in, leaks_in_files

MARKER = 'mk/7+"=é&%<\\q'
MARKERS = {"the password": MARKER}


@pytest.mark.parametrize(
    "disguised",
    [
        MARKER,
        f"password={MARKER};",
        json.dumps({"p": MARKER}),
        json.dumps(json.dumps({"p": MARKER})),
        repr({"p": MARKER}),
        repr(MARKER.encode()),
        f"http://me:{quote(MARKER, safe='')}@host",
        quote(MARKER),
        quote(MARKER, safe="").replace("%2F", "%2f").replace("%22", "%22").replace("%C3%A9", "%c3%a9").replace("%2B", "%2b").replace("%3D", "%3d").replace("%3C", "%3c").replace("%5C", "%5c"),
        quote_plus(MARKER),
        *(base64.b64encode(b"\0" * lead + MARKER.encode() + b"tail").decode() for lead in range(7)),
        *(base64.urlsafe_b64encode(b"user:"[:lead] + MARKER.encode()).decode() for lead in range(5)),
        MARKER.encode().hex(),
        MARKER.encode().hex().upper(),
        "mk/7+&quot;=é&amp;%&lt;\\q",
        MARKER.encode("utf-16-le"),
    ],
)  # fmt: skip
def test_a_marker_is_found_however_it_is_written(disguised: str | bytes) -> None:
    (found,) = leaks_in("here", disguised, MARKERS)
    assert found.startswith("here: the password (")


def test_what_holds_no_marker_is_clean() -> None:
    assert leaks_in("here", "mk/7+ and the rest of it", MARKERS) == []
    assert leaks_in("here", "", MARKERS) == []


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("plain", b"x" * 100_000 + MARKER.encode()),
        ("zstd", zstandard.compress(b"x" * 1000 + MARKER.encode())),
        (
            "two frames and a skippable one",
            zstandard.compress(b"x") + (0x184D2A50).to_bytes(4, "little") + b"\3\0\0\0abc" + zstandard.compress(MARKER.encode()),
        ),
        ("lz4", lz4.frame.compress(b"x" * 1000 + MARKER.encode())),
    ],
)
def test_files_are_unpacked(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / name).write_bytes(data)
    assert len(leaks_in_files([tmp_path], MARKERS)) == 1


def test_parquet_is_read_and_names_are_looked_at(tmp_path: Path) -> None:
    table = pa.table({"topic": [f"a {MARKER}"] * 1000})
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet", compression="zstd")
    (tmp_path / "mk-in-a-name").mkdir()
    assert len(leaks_in_files([tmp_path], {"a": MARKER, "b": "mk-in-a-name"})) == 2
