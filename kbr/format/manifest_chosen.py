"""Reads a large manifest piece by piece, and keeps the segments of chosen topics only: memory is theirs, and no more.

Relies on how kbr lays a manifest out (docs/format.md): without spaces, topics last, each beginning with its name. What is
laid out otherwise, damaged or of another version is nothing here: who asks reads it as a whole then, and is told.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise

from kbr.format.manifest_parser import BadDocument, load_manifest_json, parse_document, parse_topic
from kbr.format.manifest_signature import SUFFIX_BYTES, Signature, find_signature
from kbr.format.manifest_values import FORMAT_VERSION, Manifest, TopicEntry
from kbr.format.names import is_topic_name

__all__ = ["load_chosen_topics"]

#: Bytes that are read at once.
PIECE_BYTES = 8 * 1024 * 1024
#: Most bytes of what stands before the topics, and of a topic before its partitions.
_MAX_HEAD_BYTES = 16 * 1024 * 1024
_TOPICS = b',"topics":['
#: A quote within a text is escaped, so no text can hold these.
_TOPIC, _NEXT, _PARTITIONS = b'{"name":"', b',{"name":"', b',"partitions":['
_SEAL = b',"sha256":"%b"}'
_SEAL_BYTES = len(_SEAL % b"") + 64


class _OtherLayout(Exception):
    """It is not laid out as kbr does."""


def load_chosen_topics(
    read: Callable[[int, int], bytes],
    size_bytes: int,
    wants: Callable[[str], bool],
    check: Callable[[Signature | None, bytes], None] | None = None,
) -> Manifest | None:
    """A manifest whose other topics have no partitions (their ``partition_count`` is as it was).

    Args:
        read: gives so many bytes (second) from a position (first).
        size_bytes: of the manifest.
        wants: whether a topic of that name is chosen.
        check: is given the signature, or None, and the SHA-256 of all before it, and raises what is wrong with that.

    Returns:
        None where it has to be read as a whole, to be understood or to say what is wrong with it.
    """
    digest = hashlib.sha256()
    seal_at = size_bytes - _SEAL_BYTES
    if seal_at < len(_TOPICS) + SUFFIX_BYTES:
        return None
    suffix = read(seal_at - SUFFIX_BYTES, SUFFIX_BYTES)
    signature = find_signature(suffix)
    body_bytes = seal_at if signature is None else seal_at - SUFFIX_BYTES

    def pieces() -> Iterator[bytes]:
        for start in range(0, body_bytes, PIECE_BYTES):
            piece = read(start, min(PIECE_BYTES, body_bytes - start))
            digest.update(piece)
            yield piece

    scanner = _Scanner(pieces())
    try:
        head = load_manifest_json(scanner.until(_TOPICS) + b"}")
        if type(head) is not dict or head.get("format_version") != FORMAT_VERSION:
            return None
        manifest = parse_document({**head, "topics": []})
        topics = tuple(_topics(scanner, wants))
    except (_OtherLayout, BadDocument, ValueError, RecursionError):
        return None
    signed = digest.digest()
    if signature is not None:
        digest.update(suffix)
    if read(seal_at, _SEAL_BYTES) != _SEAL % digest.hexdigest().encode("ascii"):
        return None
    if check is not None:
        check(signature, signed)
    if any(before.name >= after.name for before, after in pairwise(topics)):
        return None
    return replace(manifest, topics=topics)


def _topics(scanner: _Scanner, wants: Callable[[str], bool]) -> Iterator[TopicEntry]:
    if scanner.rest_is(b"]"):
        return
    scanner.expect(_TOPIC)
    while True:
        # the name stands before anything that could be large
        about = _TOPIC + scanner.until(_PARTITIONS)
        name = load_manifest_json(about + b"}").get("name")
        if type(name) is not str or not is_topic_name(name):
            raise _OtherLayout
        if wants(name):
            partitions, is_last = scanner.until_or_end(_NEXT)
            yield parse_topic(load_manifest_json(about + _PARTITIONS + _without_end(partitions, is_last)))
        else:
            end, is_last = scanner.skip_to_or_end(_NEXT)
            _without_end(end, is_last)
            facts = load_manifest_json(about + _PARTITIONS + b"]}")
            count = facts.get("partition_count")
            if type(count) is not int or count < 0:
                raise _OtherLayout
            yield replace(parse_topic({**facts, "partition_count": 0}), partition_count=count)
        if is_last:
            return


def _without_end(data: bytes, is_last: bool) -> bytes:
    """Without what closes the list of topics behind the last one; a topic ends with its partitions."""
    topic = data[:-1] if is_last else data
    if not topic.endswith(b"]}") or (is_last and data[-1:] != b"]"):
        raise _OtherLayout
    return topic


class _Scanner:
    """Bytes that come in pieces, taken up to a mark."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._held = b""

    def rest_is(self, rest: bytes) -> bool:
        """Whether no more than that is left."""
        while len(self._held) <= len(rest) and self._more():
            pass
        return self._held == rest

    def expect(self, mark: bytes) -> None:
        """Take it, at the beginning."""
        while len(self._held) < len(mark) and self._more():
            pass
        if not self._held.startswith(mark):
            raise _OtherLayout
        self._held = self._held[len(mark) :]

    def until(self, mark: bytes) -> bytes:
        """What is before the mark, which is passed over."""
        found, is_end = self._take(mark, most=_MAX_HEAD_BYTES)
        if is_end:
            raise _OtherLayout
        return found

    def until_or_end(self, mark: bytes) -> tuple[bytes, bool]:
        """The same, or all that is left, where it is not there any more."""
        return self._take(mark, most=None)

    def skip_to_or_end(self, mark: bytes) -> tuple[bytes, bool]:
        """The same, but only its last few bytes."""
        while (at := self._held.find(mark)) < 0:
            self._held = self._held[-len(mark) - 8 :]
            if not self._more():
                found, self._held = self._held, b""
                return found[-3:], True
        found, self._held = self._held[max(0, at - 3) : at], self._held[at + len(mark) :]
        return found, False

    def _take(self, mark: bytes, *, most: int | None) -> tuple[bytes, bool]:
        parts: list[bytes] = []
        taken = 0
        while (at := self._held.find(mark)) < 0:
            # a mark may lie on the edge of two pieces
            kept = min(len(self._held), len(mark) - 1)
            parts.append(self._held[: len(self._held) - kept])
            self._held = self._held[len(self._held) - kept :]
            taken += len(parts[-1])
            if most is not None and taken > most:
                raise _OtherLayout
            if not self._more():
                parts.append(self._held)
                self._held = b""
                return b"".join(parts), True
        parts.append(self._held[:at])
        self._held = self._held[at + len(mark) :]
        return b"".join(parts), False

    def _more(self) -> bool:
        piece = next(self._pieces, None)
        if piece is None:
            return False
        self._held += piece
        return True
