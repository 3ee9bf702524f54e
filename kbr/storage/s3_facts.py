"""What S3's answers say of an object. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kbr.storage.base import ObjectInfo

__all__ = ["epoch_ms", "info_of", "is_archived"]

#: Classes whose objects can't be read before they were restored (S3's API reference, RestoreObject).
_ARCHIVES = frozenset({"GLACIER", "DEEP_ARCHIVE"})


def info_of(key: str, head: Mapping[str, Any]) -> ObjectInfo:
    """What a server answered to HEAD."""
    return ObjectInfo(
        key=key,
        size_bytes=int(head["ContentLength"]),
        modified_at_ms=epoch_ms(head.get("LastModified")),
        metadata=dict(head.get("Metadata") or {}),
        is_archived=is_archived(head),
    )


def is_archived(facts: Mapping[str, Any]) -> bool:
    """By a head's or a listing's facts of an object; a listing does not tell of what was restored for a while."""
    if 'ongoing-request="false"' in str(facts.get("Restore", "")):
        return False
    return facts.get("StorageClass") in _ARCHIVES or bool(facts.get("ArchiveStatus"))


def epoch_ms(moment: Any) -> int | None:
    """A datetime as milliseconds; None stays None."""
    return None if moment is None else int(moment.timestamp() * 1000)
