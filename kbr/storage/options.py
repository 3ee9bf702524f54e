"""Where a store is and how to get in. Picklable, as workers need it; secrets don't show in repr."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["StorageOptions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageOptions:
    """A store.

    Attributes:
        url: a folder, ``file:///folder``, ``s3://bucket/prefix``, ``memory://name``, or a URL of any other
            filesystem that fsspec knows.
        endpoint_url, region, access_key, secret_key, session_token, ca_bundle, path_style: for S3; what is None
            is found as boto does.
        deadline_s: how long one operation is tried again after temporary errors.
        check_deadline_s: the same for check(), so that a wrong address is told soon.
        connect_timeout_s, read_timeout_s: of one request.
        part_bytes: an S3 object up to this size is one PUT, a larger one goes in parts of it.
    """

    url: str
    endpoint_url: str | None = None
    region: str | None = None
    access_key: str | None = field(default=None, repr=False)
    secret_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)
    ca_bundle: str | None = None
    path_style: bool = False
    deadline_s: float = 900.0
    check_deadline_s: float = 20.0
    connect_timeout_s: float = 10.0
    read_timeout_s: float = 60.0
    part_bytes: int = 16 * 1024 * 1024
