"""Where a store is and how to get in. Picklable, as workers need it; secrets don't show in repr."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

from kbr.errors import ConfigError

if TYPE_CHECKING:
    from kbr.storage.base import ObjectStore

__all__ = ["ObjectOptions", "StorageOptions", "StoreLayer", "is_loopback", "without_secrets"]

_USER_INFO = re.compile(r"(?<=://)[^/@]*@")
#: The key of SSE-C is one of AES-256.
CUSTOMER_KEY_BYTES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectOptions:
    """How an S3 server is to keep objects; what is None is the bucket's own way.

    Attributes:
        sse: encryption by the server: ``AES256`` or ``aws:kms``.
        sse_kms_key_id: the key, for ``aws:kms``.
        sse_customer_key: SSE-C: the 32 bytes that the server encrypts with and keeps nowhere.
        storage_class: of objects whose keys match ``storage_class_keys``; others are read and replaced all the time.
        tags: of every object.
        lock_mode: ``GOVERNANCE`` or ``COMPLIANCE``: until ``lock_retain_days`` after it was written no version of an
            object may be deleted, if its key matches ``lock_keys``.
        storage_class_keys, lock_keys: regular expressions for whole keys, below the store's root.

    Raises:
        ConfigError: the customer's key is not 32 bytes long.
    """

    sse: str | None = None
    sse_kms_key_id: str | None = None
    sse_customer_key: bytes | None = field(default=None, repr=False)
    storage_class: str | None = None
    tags: tuple[tuple[str, str], ...] = ()
    lock_mode: str | None = None
    lock_retain_days: int = 0
    storage_class_keys: str = ".*"
    lock_keys: str = ".*"

    def __post_init__(self) -> None:
        if self.sse_customer_key is not None and len(self.sse_customer_key) != CUSTOMER_KEY_BYTES:
            raise ConfigError(
                f"storage.sse_customer_key has {len(self.sse_customer_key)} bytes and not {CUSTOMER_KEY_BYTES}",
                hint="make one with: openssl rand -base64 32",
            )


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
        endpoint_url, region, access_key, secret_key, session_token, profile, ca_bundle, path_style: for S3; what is
            None is found as boto does.
        anonymous: requests to S3 carry no credentials.
        objects: how S3 keeps objects.
        extra: for the other filesystems of fsspec: what their constructors take.
        deadline_s: how long one operation is tried again after temporary errors.
        check_deadline_s: the same for check(), so that a wrong address is told soon.
        connect_timeout_s: for one connection.
        read_timeout_s: how long the other side may be silent, or take nothing, before a request counts as lost.
        part_bytes: an S3 object up to this size is one PUT, a larger one goes in parts of it; at least 5 MiB.
        layer: put over the store wherever it is opened.

    Raises:
        ConfigError: the endpoint holds a password, which would show in messages, or a key for SSE-C would go over the
            network in the clear.
    """

    url: str
    endpoint_url: str | None = None
    region: str | None = None
    access_key: str | None = field(default=None, repr=False)
    secret_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)
    profile: str | None = None
    anonymous: bool = False
    ca_bundle: str | None = None
    path_style: bool = False
    objects: ObjectOptions = field(default_factory=ObjectOptions)
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
        if self.objects.sse_customer_key is not None and self.plain_http is not None:
            raise ConfigError(
                f"storage.sse_customer_key would go to {self.plain_http} unencrypted with every request",
                hint="use an https:// endpoint",
            )

    @property
    def is_remote(self) -> bool:
        """Whether an object's bytes wait in memory until the store has them, which a folder's don't."""
        scheme, separator, _ = self.url.partition("://")
        return bool(separator) and scheme not in {"file", "memory"}

    @property
    def plain_http(self) -> str | None:
        """An address of another machine that is plain HTTP, if there is one: whoever is in between can read what is sent."""
        for address in (self.endpoint_url or "", *_addresses(self.extra)):
            if address.lower().startswith("http://") and not is_loopback(address):
                return without_secrets(address)
        return None

    @property
    def upload_bytes(self) -> int:
        """What one upload may hold in memory: the part being filled and two on their way; 0 for a folder."""
        return 3 * self.part_bytes if self.is_remote else 0

    def within(self, memory_bytes: int) -> StorageOptions:
        """The same place with parts that suit a budget; S3 takes none below 5 MiB."""
        return replace(self, part_bytes=max(5 << 20, min(self.part_bytes, memory_bytes // 8)))

    def __repr__(self) -> str:
        return f"StorageOptions(url={without_secrets(self.url)!r}, endpoint_url={self.endpoint_url!r})"


def _addresses(extra: Mapping[str, object]) -> Iterator[str]:
    """What options of a filesystem's constructor may name as its server; a proxy only passes on what may be encrypted."""
    for name, value in extra.items():
        if isinstance(value, str) and "proxy" not in name.lower():
            yield value


def is_loopback(url: str) -> bool:
    """Whether a URL's host is this machine, by its name alone."""
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:  # it is no URL, and who opens it says so
        return False
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def without_secrets(url: str) -> str:
    """A URL as it may be shown: without user, password and query."""
    scheme, separator, _rest = url.partition("://")
    if not separator or scheme == "file":
        return url
    return _USER_INFO.sub("", url).partition("?")[0]
