"""Where a store is and how to get in. Picklable, as workers need it; secrets don't show in repr."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from kbr.errors import ConfigError

if TYPE_CHECKING:
    from kbr.storage.base import ObjectStore

__all__ = ["StorageOptions", "StoreLayer", "without_secrets"]

_USER_INFO = re.compile(r"(?<=://)[^/@]*@")


class StoreLayer(Protocol):
    """Something between a store and all who use it, such as encryption. Picklable and hashable, as the options are."""

    def over(self, store: ObjectStore) -> ObjectStore:
        """The store as it is to be used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageOptions:
    """A store.

    Attributes:
        url: a folder, ``file:///folder``, ``s3://bucket/prefix``, ``memory://name``, or a URL of any other
            filesystem that fsspec knows.
        endpoint_url, region, access_key, secret_key, session_token, ca_bundle, path_style: for S3; what is None
            is found as boto does.
        extra: for the other filesystems of fsspec: what their constructors take.
        deadline_s: how long one operation is tried again after temporary errors.
        check_deadline_s: the same for check(), so that a wrong address is told soon.
        connect_timeout_s: for one connection.
        read_timeout_s: how long the other side may be silent, or take nothing, before a request counts as lost.
        part_bytes: an S3 object up to this size is one PUT, a larger one goes in parts of it; at least 5 MiB.
        layer: put over the store wherever it is opened.

    Raises:
        ConfigError: the endpoint holds a password, which would show in messages.
    """

    url: str
    endpoint_url: str | None = None
    region: str | None = None
    access_key: str | None = field(default=None, repr=False)
    secret_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)
    ca_bundle: str | None = None
    path_style: bool = False
    # not part of the hash, as a mapping has none: workers keep one store per options
    extra: Mapping[str, object] = field(default_factory=dict, repr=False, hash=False)
    deadline_s: float = 900.0
    check_deadline_s: float = 20.0
    connect_timeout_s: float = 10.0
    read_timeout_s: float = 60.0
    part_bytes: int = 16 * 1024 * 1024
    layer: StoreLayer | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.endpoint_url is not None and "@" in self.endpoint_url:
            raise ConfigError(
                "the storage endpoint holds a user name or password",
                hint="set storage.access_key and storage.secret_key instead",
            )

    @property
    def is_remote(self) -> bool:
        """Whether an object's bytes wait in memory until the store has them, which a folder's don't."""
        scheme, separator, _ = self.url.partition("://")
        return bool(separator) and scheme not in {"file", "memory"}

    @property
    def upload_bytes(self) -> int:
        """What one upload may hold in memory: the part being filled and two on their way; 0 for a folder."""
        return 3 * self.part_bytes if self.is_remote else 0

    def within(self, memory_bytes: int) -> StorageOptions:
        """The same place with parts that suit a budget; S3 takes none below 5 MiB."""
        return replace(self, part_bytes=max(5 << 20, min(self.part_bytes, memory_bytes // 8)))

    def __repr__(self) -> str:
        return f"StorageOptions(url={without_secrets(self.url)!r}, endpoint_url={self.endpoint_url!r})"


def without_secrets(url: str) -> str:
    """A URL as it may be shown: without user, password and query."""
    scheme, separator, _rest = url.partition("://")
    if not separator or scheme == "file":
        return url
    return _USER_INFO.sub("", url).partition("?")[0]
