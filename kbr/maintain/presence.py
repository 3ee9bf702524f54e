"""What can be said of an encrypted backup without its key: whether all segments are there, and as large as they were.

By the open part of its manifest, which nobody can prove without the key either.
"""

from __future__ import annotations

from dataclasses import replace

from kbr.errors import ObjectMissing
from kbr.format.open_part import OpenPart
from kbr.maintain.objects import Damage
from kbr.maintain.verify import VerifyReport
from kbr.repository.layout import backup_folder, keys_key
from kbr.storage.base import ObjectStore

__all__ = ["verify_presence", "with_keys"]


def verify_presence(store: ObjectStore, part: OpenPart, openers: str) -> VerifyReport:
    """Compare an encrypted backup's manifest with a listing.

    Args:
        store: objects as they are stored.
        part: the manifest's.
        openers: which keys would tell more, for a note.

    Raises:
        StorageError: the store does not answer.
    """
    folder = backup_folder(part.backup_id)
    listed = {info.key: info.size_bytes for info in store.list(f"{folder}topics/")}
    errors: list[Damage] = []
    count = stored_bytes = 0
    for path, due in part.segments.items():
        key = f"{folder}{path}"
        size = listed.get(key)
        if size != due:
            size = _size_in_doubt(store, key)
        if size is None:
            errors.append(Damage(object=key, position=None, what="it is missing"))
        elif size != due:
            what = f"it has {size} bytes, the manifest says {due}"
            errors.append(Damage(object=key, position=min(size, due), what=what))
        else:
            count += 1
            stored_bytes += due
    return VerifyReport(
        backup_id=part.backup_id,
        deep=False,
        objects=count,
        bytes=stored_bytes,
        blocks=0,
        records=0,
        errors=tuple(errors),
        notes=(
            "without a key only presence and sizes were looked at, by a list that only a key can prove; contents, gaps and "
            f"the manifest itself were not. It opens with any of: {openers}",
        ),
        presence_only=True,
        encrypted=True,
    )


def with_keys(report: VerifyReport, flaw: str) -> VerifyReport:
    """With what is to be said of an encrypted backup's keys.json (kbr.repository.backup_keys.FoundKeys.flaw)."""
    if not flaw:
        return report
    what = f"it is {flaw}; the manifest's copy stands in for it, and the next backup run puts it back"
    return replace(report, errors=(*report.errors, Damage(object=keys_key(report.backup_id), position=None, what=what)))


def _size_in_doubt(store: ObjectStore, key: str) -> int | None:
    """A listing may lag behind; the object itself does not."""
    try:
        return store.head(key).size_bytes
    except ObjectMissing:
        return None
