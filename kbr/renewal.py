"""Whether files that something was made from are others by now: certificates, keys, lists of CAs. Knows nothing of what is in them."""

from __future__ import annotations

import os
from collections.abc import Iterable

__all__ = ["SeenFiles"]

#: Of a folder, such as one of CAs, no more entries are looked at.
_MOST_ENTRIES = 10_000
#: Device, inode, size, and the times of the last change of content and of anything, ns. None: it can't be had.
_Stamp = tuple[int, int, int, int, int] | None


class SeenFiles:
    """Some files and folders, as they were when somebody last took them up.

    Links are followed: Kubernetes renews a secret's files by turning one link.

    Args:
        paths: those that are not there count, too: they may come.
    """

    def __init__(self, paths: Iterable[str]) -> None:
        self._paths = tuple(paths)
        self._seen = self._look()

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._paths)

    @property
    def changed(self) -> bool:
        """Whether any of them is another."""
        return self._look() != self._seen

    def take(self) -> bool:
        """The same, and as they are now is how they were seen: True once for each change.

        To be called before they are read: a change behind that is another one.
        """
        found = self._look()
        changed, self._seen = found != self._seen, found
        return changed

    def _look(self) -> list[_Stamp]:
        found: list[_Stamp] = []
        for path in self._paths:
            found.append(_stamp(path))
            if os.path.isdir(path):
                found += [_stamp(os.path.join(path, name)) for name in _names(path)]
        return found


def _names(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))[:_MOST_ENTRIES]
    except OSError:
        return []  # as good as empty: it is looked at again


def _stamp(path: str) -> _Stamp:
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
