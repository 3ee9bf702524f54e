"""What requests to S3 carry because of storage options: encryption, class, tags, retention, checksums.

Pure. Names of parameters and which request takes which: S3's API reference (PutObject, CreateMultipartUpload,
UploadPart, CompleteMultipartUpload, HeadObject, GetObject).
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta, timezone
from typing import Any
from urllib.parse import urlencode

from kbr.storage.options import ObjectOptions

__all__ = ["RequestParameters"]

#: Requests that make an object: only these say how it is to be kept.
_MAKING = frozenset({"put_object", "create_multipart_upload"})
#: Requests that need the customer's key.
_WITH_CUSTOMER_KEY = _MAKING | {"upload_part", "complete_multipart_upload", "head_object", "get_object"}
#: Requests with a body that becomes part of an object.
_WITH_BODY = frozenset({"put_object", "upload_part"})


class RequestParameters:
    """Parameters for the requests of one store.

    Args:
        objects: what was asked for.
        now_ms: this machine's clock.
    """

    def __init__(self, objects: ObjectOptions, now_ms: Callable[[], int]) -> None:
        self._objects = objects
        self._now_ms = now_ms
        self._class_keys = re.compile(objects.storage_class_keys)
        self._lock_keys = re.compile(objects.lock_keys)
        #: Send Content-MD5 with every body. Servers want a checksum for objects under retention, and, where a bucket
        #: has a default retention, for all of them. Not without need: it costs about 1.4 s of CPU a GiB.
        self.with_md5 = objects.lock_mode is not None

    def of(self, operation: str, key: str, body: bytes | None) -> Mapping[str, Any]:
        """What a request of botocore's name has to carry.

        Args:
            key: below the store's root.
            body: for put_object and upload_part.
        """
        objects = self._objects
        found: dict[str, Any] = {}
        if operation in _WITH_BODY and self.with_md5 and body is not None:
            found["ContentMD5"] = base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
        if objects.sse_customer_key is not None and operation in _WITH_CUSTOMER_KEY:
            found["SSECustomerAlgorithm"] = "AES256"
            found["SSECustomerKey"] = objects.sse_customer_key  # botocore adds its MD5
        if operation not in _MAKING:
            return found
        if objects.sse is not None:
            found["ServerSideEncryption"] = objects.sse
        if objects.sse_kms_key_id is not None:
            found["SSEKMSKeyId"] = objects.sse_kms_key_id
        if objects.storage_class is not None and self._class_keys.fullmatch(key):
            found["StorageClass"] = objects.storage_class
        if objects.tags:
            found["Tagging"] = urlencode(objects.tags)
        if objects.lock_mode is not None and self._lock_keys.fullmatch(key):
            found["ObjectLockMode"] = objects.lock_mode
            found["ObjectLockRetainUntilDate"] = self._retain_until()
        return found

    def options_of(self, operation: str, key: str) -> tuple[str, ...]:
        """Names of the storage options that a request carries, for messages."""
        objects = self._objects
        found = []
        if objects.sse_customer_key is not None and operation in _WITH_CUSTOMER_KEY:
            found.append("storage.sse_customer_key")
        if operation in _MAKING:
            if objects.sse is not None:
                found.append("storage.sse")
            if objects.sse_kms_key_id is not None:
                found.append("storage.sse_kms_key_id")
            if objects.storage_class is not None and self._class_keys.fullmatch(key):
                found.append("storage.storage_class")
            if objects.tags:
                found.append("storage.tags")
            if objects.lock_mode is not None and self._lock_keys.fullmatch(key):
                found.append("storage.object_lock_mode")
        return tuple(found)

    def ignored_encryption(self, head: Mapping[str, Any]) -> str:
        """The option for encryption that a server has ignored, by its answer to HEAD; empty if it has not.

        Not so for the others: a class is left out of answers where it is STANDARD, retention where the right to see
        it is missing, and neither leaves data readable that were not to be.
        """
        objects = self._objects
        if objects.sse_customer_key is not None and head.get("SSECustomerAlgorithm") != "AES256":
            return "storage.sse_customer_key"
        if objects.sse is not None and head.get("ServerSideEncryption") != objects.sse:
            return "storage.sse"
        return ""

    def kept(self, key: str, head: Mapping[str, Any]) -> Mapping[str, bool]:
        """By option: whether a server's answer to HEAD shows that it was followed."""
        facts = {
            "storage.sse_customer_key": head.get("SSECustomerAlgorithm") == "AES256",
            "storage.sse": head.get("ServerSideEncryption") == self._objects.sse,
            "storage.sse_kms_key_id": str(head.get("SSEKMSKeyId") or "").endswith(self._objects.sse_kms_key_id or ""),
            "storage.storage_class": head.get("StorageClass", "STANDARD") == self._objects.storage_class,
            "storage.tags": int(head.get("TagCount") or 0) == len(self._objects.tags),
            "storage.object_lock_mode": head.get("ObjectLockMode") == self._objects.lock_mode,
        }
        return {option: facts[option] for option in self.options_of("put_object", key)}

    def _retain_until(self) -> datetime:
        written_at = datetime.fromtimestamp(self._now_ms() / 1000, timezone.utc)
        return written_at + timedelta(days=self._objects.lock_retain_days)
