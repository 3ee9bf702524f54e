"""What a server can be asked beyond an ObjectStore's own operations, to find out what it does. Implemented by S3Store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

__all__ = ["Probed"]


@runtime_checkable
class Probed(Protocol):
    """A store whose server can be found to do less than it should."""

    def condition_kept(self, key: str) -> bool | None:
        """Whether a conditional write leaves an object that is there alone; None if the server refuses such writes."""

    def kept_options(self, key: str) -> Mapping[str, bool]:
        """By storage option that asks the server for something: whether an object shows that it has done it."""
