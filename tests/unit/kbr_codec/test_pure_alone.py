"""The pure codec reads a backup where nothing can be compiled and nothing is installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import kbr_codec
from kbr_codec import Record, encode_block

PACKAGE = Path(kbr_codec.__file__).parent
PROGRAM = """
import sys
from kbr_codec.pure import decode_block
assert not [name for name in sys.modules if name.startswith("kbr_codec._")], "something compiled"
print(decode_block(bytes.fromhex(sys.argv[1])))
"""


def test_three_plain_files_are_enough_to_read_a_block(tmp_path: Path) -> None:
    """errors.py, protocols.py, pure.py: no __init__.py, no extension, no package beside the standard library."""
    copy = tmp_path / "kbr_codec"
    copy.mkdir()
    for name in ("errors.py", "protocols.py", "pure.py"):
        (copy / name).write_bytes((PACKAGE / name).read_bytes())
    records = [Record(3, -1, 0, None, b"\xff", ((b"h", None),))]
    # -S: no site-packages; -P would hide the working folder, which holds the three files
    done = subprocess.run(
        [sys.executable, "-S", "-c", PROGRAM, encode_block(records).hex()],
        cwd=tmp_path,
        env={"PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == repr(records)
