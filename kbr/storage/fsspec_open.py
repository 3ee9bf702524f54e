"""Opens the filesystem of a URL: finds its package, connects where its constructor does.

The only importer of fsspec itself, and of sshfs.
"""

from __future__ import annotations

import ftplib
import re
from collections.abc import Mapping
from typing import Any

import fsspec

from kbr.errors import AccessDenied, ConfigError, KbrError, StoreUnavailable
from kbr.storage.filesystem_errors import one_line
from kbr.storage.options import StorageOptions, without_secrets

__all__ = ["open_filesystem"]

#: What to install for a URL.
_PACKAGES = {
    "abfs": "adlfs",
    "abfss": "adlfs",
    "adl": "adlfs",
    "az": "adlfs",
    "box": "boxfs",
    "dropbox": "dropboxdrivefs",
    "gcs": "gcsfs",
    "gs": "gcsfs",
    "hdfs": "pyarrow",
    "lakefs": "lakefs-spec",
    "oci": "ocifs",
    "oss": "ossfs",
    "root": "fsspec-xrootd",
    "sftp": "sshfs",
    "smb": "smbprotocol",
    "ssh": "sshfs",
    "tos": "tosfs",
    "webdav": "webdav4",
    "webhdfs": "requests",
}
#: fsspec's own SFTP takes any host key (paramiko's AutoAddPolicy): whoever is in between could read the backups and the
#: password. sshfs, of the same people, can be told to look into known_hosts.
_SSH = frozenset({"sftp", "ssh"})
_GOOGLE = frozenset({"gcs", "gs"})
#: How soon a connection of SSH that says nothing counts as lost: after three such times, seconds.
_KEEPALIVE_S = 15
#: By the names of libraries' errors, as none of them is imported here: what means 'not you'.
_DENIED = frozenset(
    {"AuthenticationException", "ClientAuthenticationError", "DefaultCredentialsError", "PermissionDenied", "RefreshError"}
)
#: What Python, and libraries after it, say of an argument that a constructor does not have.
_UNKNOWN_OPTION = re.compile(r"unexpected keyword argument '(\w+)'")


def open_filesystem(options: StorageOptions) -> tuple[Any, str]:
    """The filesystem of a URL, and what it calls the place; without a listing cache, not shared.

    Raises:
        ConfigError: fsspec doesn't know the URL, a package is missing, or its options are wrong.
        AccessDenied: the server doesn't let us in.
        StoreUnavailable: it can't be reached.
    """
    shown = without_secrets(options.url)
    scheme = options.url.partition("://")[0]
    try:
        kind = _class_of(scheme)
        facts: dict[str, Any] = {"skip_instance_cache": True}
        if scheme in _SSH:
            facts |= {
                "known_hosts": (),  # as OpenSSH: sshfs by itself looks into none
                "keepalive_interval": _KEEPALIVE_S,
                "connect_timeout": options.connect_timeout_s,
            }
        else:
            facts["use_listings_cache"] = False
        if scheme in _GOOGLE:
            facts |= {
                "connect_timeout_s": options.connect_timeout_s,
                "read_timeout_s": options.read_timeout_s,
                "request_timeout_s": options.deadline_s,
            }
        facts |= kind._get_kwargs_from_urls(options.url)
        return kind(**{**facts, **options.extra}), str(kind._strip_protocol(options.url))
    except ImportError as error:
        package = _PACKAGES.get(scheme)
        hint = f"pip install {package}" if package else "install it"
        raise ConfigError(f"a package is missing for {shown}: {one_line(error)}", hint=hint) from error
    except KbrError:
        raise
    except Exception as error:
        # The library's own words may hold the URL, and the URL a password: only the system's are shown.
        raise _told(error, shown, options.extra) from None


def _class_of(scheme: str) -> Any:
    if scheme in _SSH:
        from sshfs import SSHFileSystem

        return SSHFileSystem
    if scheme in _GOOGLE:
        from kbr.storage.gcs_filesystem import GcsFilesystem

        return GcsFilesystem
    if scheme not in fsspec.available_protocols():
        if scheme in _PACKAGES:
            raise ImportError(f"fsspec has no {scheme}:// by itself")
        raise ConfigError(
            f"unknown kind of storage {scheme}://",
            hint="use a folder, s3://bucket/prefix, or a URL of a filesystem that fsspec knows, such as gs://, abfs:// or sftp://",
        )
    return fsspec.get_filesystem_class(scheme)


def _told(error: Exception, shown: str, given: Mapping[str, Any]) -> KbrError:
    kind = type(error).__name__
    unknown = _UNKNOWN_OPTION.search(str(error)) if isinstance(error, TypeError) else None
    if unknown is not None and unknown[1] in given:
        return ConfigError(
            f"no store can be opened for {shown}: it takes no storage.options.{unknown[1]}",
            hint="storage.options are what the constructor of the filesystem's class takes, by its own names: see its package's page",
        )
    if kind in _DENIED or isinstance(error, (PermissionError, ftplib.error_perm)):
        return AccessDenied(f"{shown} does not let us in ({kind})", hint="check storage.options: username, password, keys")
    if kind in {"HostKeyNotVerifiable", "HostKeyNotTrusted"}:
        return AccessDenied(
            f"the host key of {shown} is not known ({kind})",
            hint="add it to ~/.ssh/known_hosts (ssh-keyscan), or name a file that has it in storage.options.known_hosts",
        )
    if isinstance(error, (TypeError, ValueError, LookupError, AttributeError)):
        return ConfigError(f"no store can be opened for {shown} ({kind})", hint="check the URL and storage.options")
    reason = error.strerror if isinstance(error, OSError) and error.strerror else kind
    return StoreUnavailable(f"{shown} can't be reached: {reason}", hint="check that the host is right and can be reached from here")
