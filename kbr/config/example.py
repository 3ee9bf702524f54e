"""The commented example file that ``kbr config init`` prints, made from the model."""

from __future__ import annotations

import textwrap
from typing import Any, Literal

from kbr.config.describe import plain_value
from kbr.config.keys import Key, all_keys, section_at
from kbr.config.problems import Path

__all__ = ["example_file"]

_HEAD = """\
# A configuration of kbr. Lines like '#key: value' show defaults and examples: remove the '#' to set one.
# ${VAR} and ${VAR:-default} are environment variables, ${file:/path} is a file's content, $$ is a plain $.
# Check the file with: kbr config check FILE
"""
#: What a first run needs; everything else is left commented out.
_GIVEN = {
    "backup": {"mode", "backup_id", "source.bootstrap_servers", "source.topics.include"},
    "restore": {"mode", "backup_id", "target.bootstrap_servers"},
}
_STORAGE = {"storage.backend": "filesystem", "storage.path": "/var/backups/kafka"}
_LEFT_OUT = {"backup": ("target", "restore"), "restore": ("source", "backup")}


def example_file(mode: Literal["backup", "restore"]) -> str:
    """A valid YAML file for ``mode``, with every key that it can use."""
    lines = [_HEAD.rstrip()]
    seen: set[Path] = set()
    keys = [key for key in all_keys() if key.path[0] not in _LEFT_OUT[mode]]
    active = {path[:length] for path in _active_paths(keys, mode) for length in range(1, len(path) + 1)}
    for key in keys:
        for length in range(1, len(key.path)):
            parent = key.path[:length]
            if parent not in seen:
                seen.add(parent)
                lines.extend(_heading(parent, active=parent in active))
        lines.extend(_entry(key, mode, active=key.path in active))
    return "\n".join(lines) + "\n"


def _active_paths(keys: list[Key], mode: str) -> list[Path]:
    return [key.path for key in keys if key.name in _GIVEN[mode] or key.name in _STORAGE]


def _heading(path: Path, *, active: bool) -> list[str]:
    model = section_at(path)
    title = (model.__doc__ or "").strip().splitlines()[0] if model else ""
    indent = "  " * (len(path) - 1)
    blank = [""] if len(path) == 1 else []
    return [*blank, *_comment(title, indent), f"{indent}{'' if active else '#'}{path[-1]}:"]


def _entry(key: Key, mode: str, *, active: bool) -> list[str]:
    indent = "  " * (len(key.path) - 1)
    unit = f" In {key.unit}." if key.unit else ""
    comment = _comment(key.description + unit, indent)
    value = _STORAGE.get(key.name) or (mode if key.name == "mode" else key.example or _yaml(plain_value(key.default)))
    line = f"{key.path[-1]}: {value}"
    return [*comment, f"{indent}{'' if active else '#'}{line}"]


def _comment(text: str, indent: str) -> list[str]:
    return [f"{indent}# {line}" for line in textwrap.wrap(text.replace("`", ""), 100 - len(indent))]


def _yaml(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "[" + ", ".join(f'"{item}"' for item in value) + "]"
    if isinstance(value, dict):
        return "{}"
    return str(value)
