"""Object stores: opaque keys and bytes. Knows nothing of backups.

Importing this package is cheap: a store's library is loaded when a store of that kind is opened.
"""

from __future__ import annotations

from kbr.errors import ConfigError
from kbr.storage.base import ObjectInfo, ObjectStore, StoreProperties, Upload
from kbr.storage.options import ObjectOptions, StorageOptions

__all__ = [
    "ObjectInfo",
    "ObjectOptions",
    "ObjectStore",
    "StorageOptions",
    "StoreProperties",
    "Upload",
    "modules_of",
    "open_store",
]


def open_store(options: StorageOptions) -> ObjectStore:
    """The store of a URL, with the layer that the options put over it.

    Nothing is connected to before the first operation, but for filesystems like SFTP.

    Raises:
        ConfigError: the URL is wrong, no store is known for it, or a package is missing.
        AccessDenied, StoreUnavailable: a server that has to be connected to can't be.
    """
    store = _open(options)
    return store if options.layer is None else options.layer.over(store)


def _open(options: StorageOptions) -> ObjectStore:
    scheme, separator, rest = options.url.partition("://")
    if not separator or scheme == "file":
        from kbr.storage.local import LocalStore

        if separator and not rest.startswith("/"):
            raise ConfigError(f"{options.url} names another machine", hint="use file:///folder, with three slashes")
        if not options.url:
            raise ConfigError("the storage URL is empty", hint="use a folder or s3://bucket/prefix")
        return LocalStore(rest if separator else options.url)
    if scheme == "memory":
        from kbr.storage.memory import MemoryStore

        return MemoryStore.shared(options.url)
    if scheme == "s3":
        # s3fs takes 200 ms to import: only who uses it pays
        from kbr.storage.fsspec_store import S3fsClient
        from kbr.storage.s3 import S3Store

        return S3Store(options, client=S3fsClient(options))
    from kbr.storage.filesystem import connected_store
    from kbr.storage.fsspec_open import open_filesystem

    return connected_store(options, open_filesystem)


def modules_of(url: str) -> tuple[str, ...]:
    """What opening the store of a URL imports beyond this package: for a process that is to be warm when it comes."""
    scheme, separator, _ = url.partition("://")
    if not separator or scheme == "file":
        return ("kbr.storage.local",)
    if scheme == "memory":
        return ("kbr.storage.memory",)
    if scheme == "s3":
        return ("kbr.storage.fsspec_store", "kbr.storage.s3")
    return ("kbr.storage.fsspec_open", "kbr.storage.filesystem")
