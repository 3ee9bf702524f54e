"""kbr: back up Kafka topics and restore them, exactly.

The command line is ``kbr``; the same engine as a library is in `kbr.app`. Importing this package
loads nothing else.
"""

from __future__ import annotations

__all__ = ["__version__"]

#: The version, the same as the package's.
__version__ = "0.1.0"
