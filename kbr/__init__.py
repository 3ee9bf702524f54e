"""kbr: back up Kafka topics and restore them, exactly.

The command line is ``kbr``; `open_backup` reads a backup's records from a program; the same engine as a library is in
`kbr.app`. Importing this package loads nothing else.
"""

from __future__ import annotations

from typing import Any

__all__ = ["__version__", "open_backup"]

#: The version, the same as the package's.
__version__ = "0.1.0"

#: What is loaded when it is asked for. By name: an import here would make the lowest layer, which asks for the version,
#: know the highest. Types are in the stub beside this file.
_LATER = {"open_backup": "kbr.app.reading"}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'kbr' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LATER[name]), name)
