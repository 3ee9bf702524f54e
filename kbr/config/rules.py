"""What has to hold between keys: which belong together, which exclude each other, which a mode needs.

Pure: from a `Config` whose single values are all right, to findings.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from kbr.config.keys import variable_of
from kbr.config.model import ClusterConfig, Config
from kbr.config.problems import Path
from kbr.config.storage import S3_KEYS
from kbr.model import Compression

__all__ = ["Finding", "findings"]

_SASL_KEYS = (
    "sasl_mechanism",
    "username",
    "password",
    "password_command",
    "oauth_token_endpoint_url",
    "oauth_client_id",
    "oauth_client_secret",
    "oauth_client_secret_command",
    "oauth_scope",
    "oauth_extensions",
    "aws_region",
    "aws_profile",
    "aws_role_arn",
    "aws_role_session",
)
#: What a key's beginning says about the mechanism that it is for.
_MECHANISM_KEYS = {"oauth_": "OAUTHBEARER", "aws_": "AWS_MSK_IAM"}
_LEVELS = {Compression.ZSTD: (-50, 22), Compression.LZ4: (0, 16)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that is wrong with ``path``, judged with the help of ``involved``."""

    path: Path
    what: str
    involved: tuple[Path, ...] = ()
    hint: str = ""


def findings(config: Config, mode: str | None) -> Iterator[Finding]:
    """Everything that is wrong between keys, for a verb's mode (None: neither backup nor restore)."""
    if mode is not None and config.mode is not None and config.mode != mode:
        yield Finding(
            path=("mode",), what=f"the file is for {config.mode}", hint=f"run kbr {config.mode}, or remove 'mode'"
        )
    wanted = mode or config.mode
    if wanted is not None:
        side = "source" if wanted == "backup" else "target"
        if config.backup_id is None:
            yield _missing(("backup_id",), "--backup-id")
        if not getattr(config, side).bootstrap_servers:
            yield _missing((side, "bootstrap_servers"), "--bootstrap-servers")
    yield from _security(config.source, "source")
    yield from _security(config.target, "target")
    yield from _storage(config)
    yield from _trust(config, wanted)
    yield from _compression(config)
    yield from _window("backup", config.backup.time_window_start, config.backup.time_window_end)
    yield from _window("restore", config.restore.time_window_start, config.restore.time_window_end)
    if config.backup.continuous and config.backup.time_window_end is not None:
        yield Finding(
            path=("backup", "time_window_end"),
            what="excludes continuous, which would go on for ever and take nothing any more",
            involved=(("backup", "continuous"),),
        )


def _missing(path: Path, flag: str) -> Finding:
    return Finding(path=path, what=f"is missing: give it in the file, as {flag}, or as {variable_of(path)}")


def _security(cluster: ClusterConfig, side: str) -> Iterator[Finding]:
    security, here = cluster.security, (side, "security")
    protocol = cluster.client.get("security.protocol", security.security_protocol).upper()
    mechanism = cluster.client.get("sasl.mechanism", cluster.client.get("sasl.mechanisms", security.sasl_mechanism))
    involved: tuple[Path, ...] = (
        (*here, "security_protocol"),
        (*here, "sasl_mechanism"),
        *((side, "client", name) for name in ("security.protocol", "sasl.mechanism", "sasl.mechanisms")),
    )
    given = set(security.model_fields_set)
    sasl: list[str] = [name for name in _SASL_KEYS if name in given]
    ssl: list[str] = sorted(name for name in given if name.startswith("ssl_"))
    if not protocol.startswith("SASL_"):
        for name in sasl:
            if getattr(security, name) is not None:
                yield Finding(
                    path=(*here, name),
                    what=f"needs security_protocol SASL_SSL or SASL_PLAINTEXT, and that is {protocol}",
                    involved=involved,
                )
    elif mechanism is None:
        yield Finding(
            path=(*here, "sasl_mechanism"), what=f"is missing: security_protocol is {protocol}", involved=involved
        )
    elif mechanism.upper() == "PLAIN" or mechanism.upper().startswith("SCRAM"):
        if security.username is None and "sasl.username" not in cluster.client:
            yield Finding(
                path=(*here, "username"), what=f"is missing: sasl_mechanism is {mechanism}", involved=involved
            )
        if security.password is None and security.password_command is None and "sasl.password" not in cluster.client:
            yield Finding(
                path=(*here, "password"), what=f"is missing: sasl_mechanism is {mechanism}", involved=involved
            )
    else:
        yield from _tokens(cluster, here, mechanism.upper(), involved)
    if mechanism is not None and protocol.startswith("SASL_"):
        for name in sasl:
            wanted = next((word for start, word in _MECHANISM_KEYS.items() if name.startswith(start)), None)
            if wanted not in (None, mechanism.upper()) and getattr(security, name) is not None:
                yield Finding(
                    path=(*here, name), what=f"excludes sasl_mechanism {mechanism}: it is for {wanted}", involved=involved
                )
    if not protocol.endswith("SSL"):
        for name in ssl:
            if getattr(security, name) is not None:
                yield Finding(
                    path=(*here, name),
                    what=f"needs security_protocol SSL or SASL_SSL, and that is {protocol}",
                    involved=involved,
                )
    for name in ("password", "ssl_key_password", "oauth_client_secret"):
        if getattr(security, name) is not None and getattr(security, f"{name}_command") is not None:
            yield Finding(path=(*here, f"{name}_command"), what=f"excludes {name}: give one of them")


def _tokens(
    cluster: ClusterConfig, here: Path, mechanism: str, involved: tuple[Path, ...]
) -> Iterator[Finding]:
    security = cluster.security
    if mechanism != "OAUTHBEARER" or any(
        name.startswith("sasl.oauthbearer.") or name == "enable.sasl.oauthbearer.unsecure.jwt" for name in cluster.client
    ):
        return
    for name in ("oauth_token_endpoint_url", "oauth_client_id", "oauth_client_secret"):
        if getattr(security, name) is None and (
            name != "oauth_client_secret" or security.oauth_client_secret_command is None
        ):
            yield Finding(path=(*here, name), what="is missing: sasl_mechanism is OAUTHBEARER", involved=involved)


def _storage(config: Config) -> Iterator[Finding]:
    storage, here = config.storage, ("storage",)
    parts = [name for name in ("backend", "path", "bucket", "prefix") if getattr(storage, name) is not None]
    s3_keys = [name for name in S3_KEYS if name in storage.model_fields_set and getattr(storage, name) not in (None, {})]
    for name in ("secret_key", "sse_customer_key"):
        if getattr(storage, name) is not None and getattr(storage, f"{name}_command") is not None:
            yield Finding(path=(*here, f"{name}_command"), what=f"excludes {name}: give one of them")
    if storage.url is not None:
        for name in parts:
            yield Finding(
                path=(*here, name), what="excludes url: give url, or backend and its keys", involved=((*here, "url"),)
            )
        if parts:
            return
    elif storage.backend is None:
        yield Finding(
            path=(*here, "backend" if parts else "url"),
            what="is missing: say s3, ceph or filesystem"
            if parts
            else "is missing: give it (or storage.backend) in the file, as --storage, or as KBR_STORAGE_URL",
            involved=((*here, "backend"), (*here, "url")),
        )
        return
    else:
        yield from _backend(config)
    is_folder = storage.backend == "filesystem" or (storage.url is not None and storage.is_folder)
    if storage.options and (storage.url is None or storage.is_s3 or is_folder):
        yield Finding(
            path=(*here, "options"),
            what="are for URLs of other filesystems than S3 and folders",
            involved=((*here, "backend"), (*here, "url")),
        )
    if is_folder or (storage.url is not None and not storage.is_s3):
        place = "in a folder" if is_folder else f"at {storage.location.partition('://')[0]}://"
        for name in s3_keys:
            yield Finding(
                path=(*here, name),
                what=f"is for s3 and ceph, and backups lie {place}",
                involved=((*here, "backend"), (*here, "url")),
            )
        return
    secret = storage.secret_key is not None or storage.secret_key_command is not None
    if secret != (storage.access_key is not None):
        given, other = ("secret_key", "access_key") if secret else ("access_key", "secret_key")
        yield Finding(
            path=(*here, other),
            what=f"is missing: {given} is given",
            involved=((*here, "access_key"), (*here, "secret_key")),
        )
    if storage.session_token is not None and not secret:
        yield Finding(
            path=(*here, "session_token"), what="needs access_key and secret_key", involved=((*here, "secret_key"),)
        )
    yield from _objects(config, given=secret)


def _objects(config: Config, *, given: bool) -> Iterator[Finding]:
    """How S3 is asked, and how it is to keep objects.

    Args:
        given: whether a secret key is.
    """
    storage, here = config.storage, ("storage",)
    if storage.profile is not None and given:
        yield Finding(path=(*here, "profile"), what="excludes access_key and secret_key: give one or the other")
    if storage.anonymous and (given or storage.profile is not None):
        yield Finding(path=(*here, "anonymous"), what="excludes credentials: remove them, or this")
    customer = storage.sse_customer_key is not None or storage.sse_customer_key_command is not None
    if customer and storage.sse != "none":
        yield Finding(path=(*here, "sse"), what="excludes sse_customer_key: an object is encrypted one way or the other")
    if storage.sse_kms_key_id is not None and storage.sse != "aws:kms":
        yield Finding(
            path=(*here, "sse_kms_key_id"), what=f"needs sse aws:kms, and that is {storage.sse}", involved=((*here, "sse"),)
        )
    mode, days = storage.object_lock_mode, storage.object_lock_retain_days
    if (mode is None) != (days is None):
        missing, there = ("mode", "retain_days") if mode is None else ("retain_days", "mode")
        yield Finding(
            path=(*here, f"object_lock_{missing}"),
            what=f"is missing: object_lock_{there} is given",
            involved=((*here, "object_lock_mode"), (*here, "object_lock_retain_days")),
        )


def _backend(config: Config) -> Iterator[Finding]:
    storage, here = config.storage, ("storage",)
    involved = ((*here, "backend"),)
    if storage.backend == "filesystem":
        if storage.path is None:
            yield Finding(path=(*here, "path"), what="is missing: backend is filesystem", involved=involved)
        for name in ("bucket", "prefix"):
            if getattr(storage, name) is not None:
                yield Finding(
                    path=(*here, name), what="is for s3 and ceph, and backend is filesystem", involved=involved
                )
        return
    if storage.bucket is None:
        yield Finding(path=(*here, "bucket"), what=f"is missing: backend is {storage.backend}", involved=involved)
    if storage.path is not None:
        yield Finding(
            path=(*here, "path"), what=f"is for filesystem, and backend is {storage.backend}", involved=involved
        )
    if storage.backend == "ceph" and storage.endpoint is None:
        yield Finding(path=(*here, "endpoint"), what="is missing: backend is ceph", involved=involved)


def _trust(config: Config, mode: str | None) -> Iterator[Finding]:
    encryption, signing = config.encryption, config.signing
    for section, one, name in (
        ("encryption", encryption, "key"),
        ("encryption", encryption, "identity_password"),
        ("signing", signing, "key_password"),
    ):
        if getattr(one, name) is not None and getattr(one, f"{name}_command") is not None:
            yield Finding(path=(section, f"{name}_command"), what=f"excludes {name}: give one of them")
    for section, one, name, needed in (
        ("encryption", encryption, "identity_password", "identity"),
        ("signing", signing, "key_password", "key"),
    ):
        for given in (name, f"{name}_command"):
            if getattr(one, given) is not None and getattr(one, needed) is None:
                yield Finding(path=(section, given), what=f"needs {needed}", involved=((section, needed),))
    if signing.accept_unsigned and signing.key is None:
        what = "needs key: it is for a backup that is to be signed from now on; to read one, leave public_keys out"
        yield Finding(path=("signing", "accept_unsigned"), what=what, involved=(("signing", "key"),))
    elif mode == "backup" and signing.public_keys and signing.key is None:
        # else it would take the signature from a backup that has one, and nobody with public_keys could use it any more
        yield Finding(
            path=("signing", "public_keys"),
            what="needs key: a run without it would leave a manifest that nobody has signed",
            hint="give signing.key, whose public key the others know; or leave public_keys out, for a backup without signatures",
            involved=(("signing", "key"),),
        )


def _compression(config: Config) -> Iterator[Finding]:
    level, compression = config.backup.compression_level, config.backup.compression
    if level is None:
        return
    here, involved = ("backup", "compression_level"), (("backup", "compression"),)
    if compression not in _LEVELS:
        yield Finding(path=here, what="is for zstd and lz4, and compression is none", involved=involved)
        return
    lowest, highest = _LEVELS[compression]
    if not lowest <= level <= highest:
        yield Finding(
            path=here, what=f"must be {lowest} to {highest} for {compression.value}, not {level}", involved=involved
        )


def _window(section: str, start: int | None, end: int | None) -> Iterator[Finding]:
    if start is not None and end is not None and start > end:
        yield Finding(
            path=(section, "time_window_end"),
            what=f"is before time_window_start ({end} < {start})",
            involved=((section, "time_window_start"),),
        )
