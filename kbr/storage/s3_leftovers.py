"""Ends the multipart uploads that interrupted writers left in a bucket: they cost money, and no listing shows them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from kbr.errors import AccessDenied, KbrError, StoreUnavailable

__all__ = ["end_unfinished_uploads"]

_log = logging.getLogger("kbr.storage")


class Requests(Protocol):
    """What is needed of a store."""

    def call(self, operation: str, key: str, *, deadline_s: float | None = None, **arguments: Any) -> Mapping[str, Any]:
        """One idempotent request, with retries; the key is one below the store's root, or empty."""


def end_unfinished_uploads(store: Requests, root: str, prefix: str, *, deadline_s: float) -> int:
    """End every unfinished upload of a key that begins with ``prefix``.

    A server that can't list them, a credential that may not, an outage: the log says so, and nothing is raised.

    Args:
        root: what the store puts before its keys.
        prefix: of keys as the store takes them.
        deadline_s: for each request.

    Returns:
        How many were ended.
    """
    ended = 0
    problem: KbrError | None = None
    try:
        for key, upload_id in list(_unfinished(store, root + prefix, deadline_s)):
            try:
                store.call("abort_multipart_upload", key[len(root) :], deadline_s=deadline_s, UploadId=upload_id)
                ended += 1
            except (AccessDenied, StoreUnavailable):
                raise  # so would the others
            except KbrError as error:
                problem = error  # an earlier try whose answer was lost may have ended it
    except KbrError as error:
        problem = error
    if problem is not None:
        _log.warning("unfinished uploads of interrupted runs may stay, and cost money: %s", problem.message)
    return ended


def _unfinished(store: Requests, prefix: str, deadline_s: float) -> Iterator[tuple[str, str]]:
    """(key, upload id) of each, by pages."""
    markers: dict[str, str] = {}
    while True:
        page = store.call("list_multipart_uploads", "", deadline_s=deadline_s, Prefix=prefix, **markers)
        for entry in page.get("Uploads") or ():
            key = str(entry.get("Key") or "")
            upload_id = str(entry.get("UploadId") or "")
            if key.startswith(prefix) and upload_id:  # some servers give all of the bucket
                yield key, upload_id
        following = {
            name: str(page[f"Next{name}"]) for name in ("KeyMarker", "UploadIdMarker") if page.get(f"Next{name}")
        }
        if not page.get("IsTruncated") or following in ({}, markers):
            return
        markers = following
