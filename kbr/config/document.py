"""YAML text to a small tree of texts with positions. The only importer of yaml besides the renderer.

A subset on purpose: one document, mappings with text keys, sequences, scalars. No anchors, aliases, merge keys or
tags, at most 1 MiB and 20 levels, and a key given twice is an error. Scalars stay the texts they are, so that a
password ``0123``, a topic ``on`` or a backup_id ``2024-01-01`` is never changed by YAML's own ideas of types;
what a text means is decided by the key that it is given to. Knows no keys.
"""

from __future__ import annotations

import re
from collections.abc import Mapping as MappingABC
from dataclasses import dataclass

import yaml

__all__ = ["MAX_BYTES", "MAX_DEPTH", "DocumentError", "Mapping", "Mark", "Node", "Scalar", "Sequence", "parse_document"]

MAX_BYTES = 1024 * 1024
MAX_DEPTH = 20
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Mark:
    """A position; both from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Scalar:
    """A text; None for a plain null or nothing at all."""

    text: str | None
    mark: Mark


@dataclass(frozen=True, slots=True)
class Sequence:
    """A list."""

    items: tuple[Node, ...]
    mark: Mark


@dataclass(frozen=True, slots=True)
class Mapping:
    """Keys in their order, with the key's own position."""

    entries: MappingABC[str, tuple[Mark, Node]]
    mark: Mark


Node = Scalar | Sequence | Mapping


class DocumentError(ValueError):
    """The text is not what this module reads."""

    def __init__(self, what: str, mark: Mark) -> None:
        super().__init__(what)
        self.what = what
        self.mark = mark


def parse_document(data: bytes) -> Node:
    """Parse one document; nothing but comments is an empty mapping.

    Raises:
        DocumentError: not UTF-8, not YAML, or outside the subset.
    """
    if len(data) > MAX_BYTES:
        raise DocumentError(f"larger than {MAX_BYTES} bytes", Mark(1, 1))
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DocumentError("not UTF-8 text", _mark_of_byte(data, error.start)) from error
    reader: _Reader | None = None
    try:
        reader = _Reader(text)
        return reader.document()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise DocumentError(
            f"not valid YAML: {error.problem or error.context}", _mark(mark) if mark else Mark(1, 1)
        ) from error
    except yaml.reader.ReaderError as error:
        before = text[: error.position] if isinstance(error.position, int) else ""
        raise DocumentError("a control character that YAML forbids", _mark_of_text(before)) from error
    except (ValueError, OverflowError) as error:
        if isinstance(error, DocumentError):
            raise
        # PyYAML converts escapes and version numbers without checking their range
        mark = reader.position() if reader else Mark(1, 1)
        raise DocumentError("not valid YAML: a number or an escape is out of range", mark) from error


class _Reader:
    """Builds the tree from PyYAML's events, so that nothing is constructed that was not asked for."""

    def __init__(self, text: str) -> None:
        self._loader = yaml.SafeLoader(text)

    def position(self) -> Mark:
        return _mark(self._loader.get_mark())

    def document(self) -> Node:
        self._loader.get_event()  # stream start
        if self._loader.check_event(yaml.StreamEndEvent):
            return Mapping({}, Mark(1, 1))
        self._loader.get_event()  # document start
        node = self._node(1)
        self._loader.get_event()  # document end
        if not self._loader.check_event(yaml.StreamEndEvent):
            raise DocumentError("a second document: only one is read", _mark(self._loader.peek_event().start_mark))
        if isinstance(node, Scalar) and node.text is None:
            return Mapping({}, node.mark)
        return node

    def _node(self, depth: int) -> Node:
        event = self._loader.get_event()
        mark = _mark(event.start_mark)
        if depth > MAX_DEPTH:
            raise DocumentError(f"nested deeper than {MAX_DEPTH} levels", mark)
        if isinstance(event, yaml.AliasEvent):
            raise DocumentError("aliases (*name) are not read: write the value out", mark)
        if event.anchor is not None:
            raise DocumentError("anchors (&name) are not read: write the value out", mark)
        if event.tag is not None:
            raise DocumentError("tags (!name) are not read", mark)
        if isinstance(event, yaml.ScalarEvent):
            return Scalar(_text(event, mark), mark)
        if isinstance(event, yaml.SequenceStartEvent):
            items: list[Node] = []
            while not self._loader.check_event(yaml.SequenceEndEvent):
                items.append(self._node(depth + 1))
            self._loader.get_event()
            return Sequence(tuple(items), mark)
        return self._mapping(mark, depth)

    def _mapping(self, mark: Mark, depth: int) -> Mapping:
        entries: dict[str, tuple[Mark, Node]] = {}
        while not self._loader.check_event(yaml.MappingEndEvent):
            event = self._loader.peek_event()
            merge = isinstance(event, yaml.ScalarEvent) and event.style is None and event.value == "<<"
            key = self._node(depth + 1)
            if merge:
                raise DocumentError("merge keys (<<) are not read: write the keys out", key.mark)
            if not isinstance(key, Scalar) or key.text is None:
                raise DocumentError("a key has to be a text", key.mark)
            if key.text in entries:
                first = entries[key.text][0]
                raise DocumentError(f"key {key.text!r} is given twice, first in line {first.line}", key.mark)
            entries[key.text] = (key.mark, self._node(depth + 1))
        self._loader.get_event()
        return Mapping(entries, mark)


def _text(event: yaml.ScalarEvent, mark: Mark) -> str | None:
    if event.style is None and event.value in _NULLS:
        return None
    if _SURROGATE.search(event.value):
        raise DocumentError("an escape that is no character (half of a surrogate pair)", mark)
    return str(event.value)


def _mark(mark: yaml.Mark) -> Mark:
    return Mark(mark.line + 1, mark.column + 1)


def _mark_of_text(before: str) -> Mark:
    return Mark(before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1)


def _mark_of_byte(data: bytes, position: int) -> Mark:
    return _mark_of_text(data[:position].decode("utf-8", "replace"))
