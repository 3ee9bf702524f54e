"""What Kafka and kbr call things: topics, globs, brokers, backups, places. Pure checks; knows no keys.

Every function returns the value as it is kept, or raises ValueError with a sentence.
"""

from __future__ import annotations

import re
from urllib.parse import SplitResult, urlsplit

from kbr.config.problems import as_name
from kbr.config.values import parse_text, shown
from kbr.secrecy import is_secret_property

__all__ = [
    "check_backup_id",
    "check_broker",
    "check_bucket",
    "check_endpoint",
    "check_glob",
    "check_group",
    "check_name_piece",
    "check_path",
    "check_prefix",
    "check_property_name",
    "check_topic",
    "check_topic_pattern",
    "check_url",
    "is_secret_property",
    "split_s3_url",
]

#: org.apache.kafka.common.internals.Topic: letters, digits, '.', '_', '-', at most 249.
_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")
_GLOB = re.compile(r"(?:[A-Za-z0-9._*?-]|\[!?[A-Za-z0-9._-]+\]){1,249}")
_BACKUP_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")
_PROPERTY = re.compile(r"[a-z][a-z0-9._]*")
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
    if parts.username is not None or parts.password is not None:
        raise ValueError("holds credentials: use access_key and secret_key")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{shown(text)} is no endpoint: write http://host:port or https://host")
    if parts.query or parts.fragment:
        raise ValueError("has a query or a fragment")
    return text.rstrip("/")


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
    """Where backups lie: a folder, file:///folder or s3://bucket/prefix; returned in its shortest form."""
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
        raise ValueError(
            f"unknown kind of storage {shown(parts.scheme + '://')}: use a folder, file:// or s3://bucket/prefix"
        )
    if "@" in parts.netloc:
        raise ValueError("holds credentials: use storage.access_key and storage.secret_key")
    bucket, prefix = split_s3_url(text)
    check_bucket(bucket)
    prefix = check_prefix(prefix)
    return f"s3://{bucket}/{prefix}" if prefix else f"s3://{bucket}"


def split_s3_url(url: str) -> tuple[str, str]:
    """Bucket and prefix of an s3:// URL."""
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    return bucket, prefix


def _split(text: str) -> SplitResult:
    try:
        parts = urlsplit(text)
        _ = parts.port  # raises for a port that is no number
    except ValueError as error:
        raise ValueError(f"{shown(text.rsplit('@', maxsplit=1)[-1])} is no URL: {error}") from error
    return parts
