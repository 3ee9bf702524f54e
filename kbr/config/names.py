"""What Kafka and kbr call things: topics, globs, brokers, backups, places. Pure checks; knows no keys.

Every function returns the value as it is kept, or raises ValueError with a sentence.
"""

from __future__ import annotations

import re
from urllib.parse import SplitResult, urlsplit

from kbr.config.problems import as_name
from kbr.config.values import parse_text, shown
from kbr.secrecy import is_secret_option, is_secret_property

__all__ = [
    "check_backup_id",
    "check_broker",
    "check_bucket",
    "check_endpoint",
    "check_glob",
    "check_group",
    "check_name_piece",
    "check_option_name",
    "check_path",
    "check_prefix",
    "check_property_name",
    "check_storage_class",
    "check_tag",
    "check_tag_value",
    "check_token_url",
    "check_topic",
    "check_topic_pattern",
    "check_url",
    "is_secret_option",
    "is_secret_property",
    "split_s3_url",
]

#: org.apache.kafka.common.internals.Topic: letters, digits, '.', '_', '-', at most 249.
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")
_GLOB = re.compile(r"(?:[A-Za-z0-9._*?-]|\[!?[A-Za-z0-9._-]+\]){1,249}")
_BACKUP_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")
_PROPERTY = re.compile(r"[a-z][a-z0-9._]*")
_OPTION = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
_STORAGE_CLASS = re.compile(r"[A-Za-z0-9_-]{1,64}")
#: S3 User Guide, "Categorizing your storage using tags".
_TAG = re.compile(r"[^\W]|[ +\-=._:/@]")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")
#: URLs that fsspec knows and where no backup can lie.
_UNFIT = {
    "http": "it can only be read",
    "https": "it can only be read",
    "memory": "it is gone with the process, and each worker has its own",
    "local": "write the folder alone",
    "s3a": "write s3://",
}
_BROKER = re.compile(
    r"(?:(?:PLAINTEXT|SSL|SASL_PLAINTEXT|SASL_SSL)://)?(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+(?:%[A-Za-z0-9]+)?\])(?::([0-9]{1,5}))?",
    re.IGNORECASE,
)


def check_topic(value: object) -> str:
    """A topic's name."""
    name = parse_text(value)
    if not _TOPIC.fullmatch(name) or name in (".", ".."):
        raise ValueError(f"{shown(name)} is no topic name: letters, digits, '.', '_' and '-', at most 249")
    return name


def check_glob(value: object) -> str:
    """A topic's name, or a pattern with ``*``, ``?``, ``[abc]``, ``[!abc]``."""
    pattern = parse_text(value)
    if not _GLOB.fullmatch(pattern) or pattern in (".", ".."):
        raise ValueError(
            f"{shown(pattern)} is no topic name or glob: letters, digits, '.', '_', '-', "
            "and the wildcards * ? [abc] [!abc]"
        )
    return pattern


def check_topic_pattern(value: object) -> str:
    """A topic's name, or a pattern with ``*``."""
    pattern = parse_text(value)
    if "*" not in pattern:
        return check_topic(pattern)
    if not _TOPIC.fullmatch(pattern.replace("*", "x")):
        raise ValueError(f"{shown(pattern)} is no topic name or pattern: letters, digits, '.', '_', '-', and *")
    return pattern


def check_name_piece(value: object) -> str:
    """The beginning or the end of a topic's name; empty for none."""
    piece = parse_text(value)
    if piece and not _TOPIC.fullmatch(piece):
        raise ValueError(f"{shown(piece)} can't be in a topic's name: letters, digits, '.', '_' and '-'")
    return piece


def check_group(value: object) -> str:
    """A consumer group's name, or a pattern: Kafka allows any text up to 32,767 bytes."""
    name = parse_text(value)
    if not 0 < len(name.encode("utf-8", "surrogatepass")) < 2**15:
        raise ValueError(f"{shown(name)} is no consumer group: 1 to 32,767 bytes")
    return name


def check_backup_id(value: object) -> str:
    """A backup's name: it is a folder's name in the store."""
    name = parse_text(value)
    if not _BACKUP_ID.fullmatch(name) or name in (".", ".."):
        raise ValueError(f"{shown(name)} is no backup_id: letters, digits, '.', '_' and '-', at most 128")
    return name


def check_broker(value: object) -> str:
    """host:port, with an optional protocol in front."""
    broker = parse_text(value).strip()
    if "@" in broker:
        raise ValueError("a broker address holds credentials: use username and password of security, and write host:port")
    match = _BROKER.fullmatch(broker)
    if match is None:
        raise ValueError(f"{shown(broker)} is no broker address: write host:port")
    if match.group(1) is None:
        raise ValueError(f"{shown(broker)} has no port: write {broker}:9092, or the port that your brokers have")
    if not 1 <= int(match.group(1)) <= 65535:
        raise ValueError(f"{shown(broker)} has a port outside 1 to 65535")
    return broker


def check_property_name(value: object) -> str:
    """A librdkafka property's name, such as fetch.min.bytes."""
    name = parse_text(value)
    if not _PROPERTY.fullmatch(name):
        raise ValueError(f"{shown(as_name(name))} is no librdkafka property: lower-case letters, digits, '.' and '_'")
    return name


def check_option_name(value: object) -> str:
    """The name of an argument of a filesystem's constructor."""
    name = parse_text(value)
    if not _OPTION.fullmatch(name):
        raise ValueError(f"{shown(name)} is no option's name: letters, digits and '_'")
    return name


def check_storage_class(value: object) -> str:
    """An S3 storage class whose objects can be read at once."""
    name = parse_text(value)
    if not _STORAGE_CLASS.fullmatch(name):
        raise ValueError(f"{shown(name)} is no storage class: write one such as STANDARD_IA")
    if name.upper() in ("GLACIER", "DEEP_ARCHIVE"):
        raise ValueError(
            f"{name} can't be read at once, and a backup that goes on reads its own segments: write GLACIER_IR, or let a "
            "lifecycle rule of the bucket move old segments"
        )
    return name


def check_tag(value: object) -> str:
    """A tag's name."""
    name = parse_text(value)
    if not name or len(name) > 128 or name.lower().startswith("aws:") or _TAG.sub("", name):
        raise ValueError(f"{shown(name)} is no tag: 1 to 128 letters, digits, spaces and + - = . _ : / @, not aws:")
    return name


def check_tag_value(value: object) -> str:
    """A tag's value; may be empty."""
    text = parse_text(str(value) if isinstance(value, (int, bool)) else value)
    if len(text) > 256 or _TAG.sub("", text):
        raise ValueError(f"{shown(text)} can't be a tag's value: at most 256 letters, digits, spaces and + - = . _ : / @")
    return text


def check_path(value: object) -> str:
    """A path on this machine."""
    path = parse_text(value)
    if path == "~" or path.startswith("~/"):
        raise ValueError(f"{shown(path)}: only a shell knows '~'; write ${{HOME}}{path[1:]}")
    return path


def check_endpoint(value: object) -> str:
    """The http(s) address of an S3 server."""
    text = parse_text(value)
    parts = _split(text)
    if parts.username is not None or parts.password is not None or "@" in text:
        raise ValueError("holds credentials: use access_key and secret_key")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{shown(text)} is no endpoint: write http://host:port or https://host")
    if parts.query or parts.fragment:
        raise ValueError("has a query or a fragment")
    return text.rstrip("/")


def check_token_url(value: object) -> str:
    """The http(s) address of an OpenID Connect server's token endpoint."""
    text = parse_text(value)
    parts = _split(text)
    if parts.username is not None or parts.password is not None:
        raise ValueError("holds credentials: use oauth_client_id and oauth_client_secret")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.fragment:
        raise ValueError(f"{shown(text)} is no token endpoint: write https://host/path")
    return text


def check_prefix(value: object) -> str:
    """A folder inside a bucket, without slashes at its ends; empty is the bucket itself."""
    prefix = parse_text(value).strip("/")
    if prefix and any(step in ("", ".", "..") for step in prefix.split("/")):
        raise ValueError(f"{shown(prefix)} has an empty, '.' or '..' step")
    if "\\" in prefix:
        raise ValueError(f"{shown(prefix)} has a backslash")
    return prefix


def check_bucket(value: object) -> str:
    """A bucket's name."""
    bucket = parse_text(value)
    if not _BUCKET.fullmatch(bucket):
        raise ValueError(f"{shown(bucket)} is no bucket name")
    return bucket


def check_url(value: object) -> str:
    """Where backups lie: a folder, file:///folder, s3://bucket/prefix or another filesystem's URL, in its shortest form."""
    text = parse_text(value)
    if "://" not in text:
        return check_path(text)
    parts = _split(text)
    if parts.scheme == "file":
        if "@" in parts.netloc:
            raise ValueError("holds credentials, which a folder has none of: write file:///absolute/path")
        if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
            raise ValueError(f"{shown(text)}: write file:///absolute/path, or the path alone")
        return text.split("://", 1)[1].removeprefix("localhost")
    if parts.scheme != "s3":
        return _check_other_url(text, parts)
    if "@" in parts.netloc or ":" in parts.netloc:  # what follows a / in a secret is taken for the prefix
        raise ValueError("holds credentials, or a port: use storage.access_key and storage.secret_key, and storage.endpoint")
    bucket, prefix = split_s3_url(text)
    check_bucket(bucket)
    prefix = check_prefix(prefix)
    return f"s3://{bucket}/{prefix}" if prefix else f"s3://{bucket}"


def _check_other_url(text: str, parts: SplitResult) -> str:
    """The URL of one of fsspec's filesystems; whether there is one of that kind is known when it is opened."""
    scheme = text.partition("://")[0]
    if not _SCHEME.fullmatch(scheme) or "::" in text:
        raise ValueError("is no URL of one filesystem: use a folder, s3://bucket/prefix, gs://, abfs://, sftp:// or the like")
    if scheme in _UNFIT:
        raise ValueError(f"{scheme}:// can't hold backups: {_UNFIT[scheme]}")
    if parts.password is not None or parts.query:
        raise ValueError("may hold credentials: use storage.options")
    if any(step in (".", "..") for step in parts.path.split("/")):
        raise ValueError("has a '.' or '..' step")
    stripped = text.rstrip("/")
    return stripped if "://" in stripped else text


def split_s3_url(url: str) -> tuple[str, str]:
    """Bucket and prefix of an s3:// URL."""
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    return bucket, prefix


def _split(text: str) -> SplitResult:
    try:
        parts = urlsplit(text)
        _ = parts.port  # raises for a port that is no number
    except ValueError as error:
        # Not urllib's own words, and nothing behind a colon: http://me:pass/word@host has the "port" pass.
        scheme, _, rest = text.rsplit("@", maxsplit=1)[-1].rpartition("://")
        host = rest.partition(":")[0] + ("..." if ":" in rest else "")
        raise ValueError(f"{shown(f'{scheme}://{host}' if scheme else host)} is no URL: write {_example_of(text)}") from error
    return parts


def _example_of(text: str) -> str:
    """How a URL of that kind is written."""
    return "s3://bucket/prefix" if text.startswith("s3:") else "https://host or https://host:port"
