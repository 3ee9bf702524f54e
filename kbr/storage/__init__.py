"""Object stores: opaque keys and bytes. Knows nothing of backups.

Importing this package is cheap: a store's library is loaded when a store of that kind is opened.
"""

from __future__ import annotations

from kbr.errors import ConfigError
from kbr.storage.base import ObjectInfo, ObjectStore, Upload
from kbr.storage.options import StorageOptions

__all__ = ["ObjectInfo", "ObjectStore", "StorageOptions", "Upload", "open_store"]


def open_store(options: StorageOptions) -> ObjectStore:
    """The store of a URL; nothing is connected to before the first operation.

    Raises:
        ConfigError: no store is known for that URL.
    """
    scheme, separator, rest = options.url.partition("://")
    if not separator or scheme == "file":
        from kbr.storage.local import LocalStore

        return LocalStore(rest if separator else options.url)
    if scheme == "memory":
        from kbr.storage.memory import MemoryStore

        return MemoryStore.shared(options.url)
    if scheme == "s3":
        # s3fs takes 200 ms to import: only who uses it pays
        from kbr.storage.fsspec_store import S3Store

        return S3Store(options)
    raise ConfigError(
        f"no store is known for {scheme}:// in {options.url}", hint="use a folder or s3://bucket/prefix"
    )
