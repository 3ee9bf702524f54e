"""The model's keys as a list: for the environment, flags, suggestions and the reference page. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from enum import Enum
from functools import cache
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from kbr.config.fields import Section, fact
from kbr.config.model import Config
from kbr.config.names import is_secret_option, is_secret_property
from kbr.config.problems import Path

__all__ = [
    "Key",
    "UnknownKey",
    "all_keys",
    "find_key",
    "hint_of_later",
    "is_option_path",
    "is_secret_path",
    "section_at",
    "suggest",
    "variable_of",
]

#: Keys that later versions have; a file made for one gets a fitting answer.
_LATER = frozenset({"index"})
_MAP_KINDS = frozenset(
    {
        "properties", "topic configs", "mapping of topics", "mapping of partitions", "mapping of offset windows",
        "mapping of groups", "mapping of tags", "mapping of options",
    }
)  # fmt: skip
#: Maps whose entries are maps by partition.
_NESTED_KINDS = frozenset({"mapping of partitions", "mapping of offset windows"})

#: Maps with secrets among their entries, and what tells them.
_SECRET_NAMES = {"properties": is_secret_property, "mapping of options": is_secret_option}


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One key that takes a value.

    Attributes:
        path: its steps from the top.
        kind: what may be written.
        is_map: it takes entries of its own; its value merges over layers.
        is_list: it takes a list.
        default: None and empty are 'not given'.
    """

    path: Path
    kind: str
    unit: str
    description: str
    default: Any
    shown_default: str
    example: str
    secret: bool
    options: tuple[str, ...]
    minimum: int | None
    maximum: int | None
    is_map: bool
    is_list: bool

    @property
    def name(self) -> str:
        return ".".join(self.path)

    @property
    def variable(self) -> str:
        """Its environment variable."""
        return variable_of(self.path)


def variable_of(path: Path) -> str:
    """A key's environment variable: KBR_SOURCE_BOOTSTRAP_SERVERS for source.bootstrap_servers."""
    return "KBR_" + "_".join(path).upper()


class UnknownKey(ValueError):
    """A dotted name that leads to no key; ``path`` is as far as it makes sense."""

    def __init__(self, path: Path, what: str) -> None:
        super().__init__(what)
        self.path = path
        self.what = what


def _section_of(field: FieldInfo) -> type[Section] | None:
    annotation = field.annotation
    # before Python 3.11 isinstance says of tuple[str, ...], too, that it is a type
    if get_origin(annotation) is not None or not isinstance(annotation, type):
        return None
    return annotation if issubclass(annotation, Section) else None


def _options(annotation: Any) -> tuple[str, ...]:
    """The words of a Literal or an Enum, optional or not; empty for other types."""
    for part in (annotation, *get_args(annotation)):
        if get_origin(part) is Literal:
            return tuple(get_args(part))
        if isinstance(part, type) and issubclass(part, Enum):
            return tuple(member.value for member in part)
    return ()


def _walk(model: type[Section], path: Path) -> Iterator[Key]:
    for name, field in model.model_fields.items():
        inner = _section_of(field)
        if inner is not None:
            yield from _walk(inner, (*path, name))
            continue
        kind = fact(field, "kind")
        yield Key(
            path=(*path, name),
            kind=kind,
            unit=fact(field, "unit"),
            description=field.description or "",
            default=field.get_default(call_default_factory=True),
            shown_default=fact(field, "shown_default"),
            example=fact(field, "example"),
            secret=fact(field, "secret"),
            options=_options(field.annotation),
            minimum=fact(field, "minimum"),
            maximum=fact(field, "maximum"),
            is_map=kind in _MAP_KINDS,
            is_list=kind.startswith("list of"),
        )


@cache
def all_keys() -> tuple[Key, ...]:
    """Every key, in the model's order."""
    return tuple(_walk(Config, ()))


def section_at(path: Path) -> type[Section] | None:
    """The section that ``path`` leads to; None if it is none."""
    model: type[Section] = Config
    for step in path:
        field = model.model_fields.get(step)
        inner = _section_of(field) if field is not None else None
        if inner is None:
            return None
        model = inner
    return model


def find_key(dotted: str) -> tuple[Key, Path]:
    """The key that a dotted name means, and its whole path with an entry of a mapping, if it names one.

    Raises:
        UnknownKey: there is none.
    """
    steps = tuple(dotted.split("."))
    for found in all_keys():
        length = len(found.path)
        if steps == found.path:
            return found, found.path
        if found.is_map and steps[:length] == found.path and all(steps[length:]):
            # entries have dots in their own names: fetch.min.bytes, retention.ms, a topic
            rest = ".".join(steps[length:])
            if found.kind not in _NESTED_KINDS:
                return found, (*found.path, rest)
            topic, _, number = rest.rpartition(".")
            if topic:
                return found, (*found.path, topic, number)
            raise UnknownKey((*found.path, rest), f"names no partition: write TOPIC.PARTITION={_nested_value(found.kind)}")
    if section_at(steps) is not None:
        raise UnknownKey(steps, "is a section: set one of its keys")
    known = 0
    while known < len(steps) and section_at(steps[: known + 1]) is not None:
        known += 1
    raise UnknownKey(steps[: known + 1], "unknown key")


def _nested_value(kind: str) -> str:
    return "PARTITION" if kind == "mapping of partitions" else "FROM-TO"


def suggest(path: Path) -> str:
    """The nearest valid key for an unknown one; empty if nothing is near, or if a later version has it."""
    if hint_of_later(path):
        return ""
    parent = section_at(path[:-1])
    wrong = path[-1].lower().replace("-", "_").replace(".", "_")
    if parent is not None:
        near = get_close_matches(wrong, list(parent.model_fields), n=1, cutoff=0.6)
        if near and (near[0] == wrong or wrong not in _by_last_step()):
            return near[0]
    elsewhere = _by_last_step().get(wrong, [])
    # the one that shares most of the way: source.password means source.security.password
    elsewhere = sorted(elsewhere, key=lambda other: (-_shared(other, path), len(other)))
    return ".".join(elsewhere[0]) if elsewhere else ""


@cache
def _by_last_step() -> Mapping[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for one in all_keys():
        found.setdefault(one.path[-1], []).append(one.path)
    return found


def _shared(one: Path, other: Path) -> int:
    count = 0
    for left, right in zip(one, other, strict=False):
        if left != right:
            break
        count += 1
    return count


def hint_of_later(path: Path) -> str:
    """What to add for a key that a later version has; empty for others."""
    return " (not available yet)" if path and path[-1] in _LATER else ""


def is_option_path(path: Path) -> bool:
    """Whether it is an entry of ``options``, of whose values only the names tell which may be secrets."""
    return any(one.kind == "mapping of options" and one.path == path[:-1] for one in all_keys())


def is_secret_path(path: Path) -> bool:
    """Whether the value at ``path`` has to stay hidden, entries of ``client`` and ``options`` included."""
    for one in all_keys():
        if one.path == path[: len(one.path)]:
            names_secret = _SECRET_NAMES.get(one.kind)
            return one.secret or (
                names_secret is not None and len(path) > len(one.path) and names_secret(path[-1])
            )
    return False
