"""A configuration as rows and as plain data, with origins and without secrets."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from pydantic import SecretStr

from kbr.config.fields import Section
from kbr.config.keys import all_keys, is_secret_path
from kbr.config.model import Config
from kbr.config.problems import Path

__all__ = ["REDACTED", "OriginRow", "describe_origin", "plain_value", "to_plain"]

REDACTED = "<redacted>"
#: Of a URL in a text that is no secret as a whole.
_PASSWORD = re.compile(r"(?<=://)([^/@\s:]*):[^/@\s]+@")


@dataclass(frozen=True, slots=True, kw_only=True)
class OriginRow:
    """One key's value and where it came from; a secret's value is ``<redacted>``."""

    key: str
    value: Any
    source: str


def describe_origin(config: Config) -> tuple[OriginRow, ...]:
    """Every key with its value and its source, in the model's order; each entry of a mapping is a row."""
    return tuple(_rows(config))


def _rows(config: Config) -> Iterator[OriginRow]:
    for key in all_keys():
        value: Any = config
        for step in key.path:
            value = getattr(value, step)
        for path, entry in _entries(key.path, value):
            yield OriginRow(key=".".join(path), value=plain_value(entry, path), source=config.origin_of(path).where)


def _entries(path: Path, value: Any) -> Iterator[tuple[Path, Any]]:
    if isinstance(value, Mapping) and value:
        for name, entry in value.items():
            yield from _entries((*path, str(name)), entry)
    else:
        yield path, value


def to_plain(config: Config) -> dict[str, Any]:
    """The whole configuration as nested plain data, JSON-ready, secrets redacted."""
    return _section(config, ())


def _section(model: Section, path: Path) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for name in type(model).model_fields:
        value = getattr(model, name)
        here = (*path, name)
        plain[name] = _section(value, here) if isinstance(value, Section) else plain_value(value, here)
    return plain


def plain_value(value: Any, path: Path = ()) -> Any:
    """One value as JSON would have it; redacted if ``path`` is a secret's."""
    if isinstance(value, SecretStr) or (value is not None and is_secret_path(path)):
        return REDACTED
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(name): plain_value(entry, (*path, str(name))) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_value(item) for item in value]
    return _PASSWORD.sub(rf"\1:{REDACTED}@", value) if isinstance(value, str) else value
