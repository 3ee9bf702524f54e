"""The JSON schema of a configuration file, for editors. Made from the model."""

from __future__ import annotations

from typing import Any

from kbr.config.describe import plain_value
from kbr.config.keys import Key, all_keys
from kbr.config.model import Config

__all__ = ["json_schema"]

_REFERENCE = {"type": "string", "pattern": r"\$\{.+\}"}
_SIZE = {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)? ?(B|[kK]B|[MGT]B|[KMGT]iB)?$"}
_SCALAR = {"type": ["string", "number", "boolean"]}


def json_schema() -> dict[str, Any]:
    """A schema (draft 2020-12) that accepts what `load_config` accepts in a file, references included."""
    root: dict[str, Any] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "kbr configuration",
        **_section((Config.__doc__ or "").strip()),
    }
    for key in all_keys():
        inner = root
        for length, step in enumerate(key.path[:-1], start=1):
            inner = inner["properties"].setdefault(step, _section(_title(key.path[:length])))
        inner["properties"][key.path[-1]] = _value(key)
    return root


def _section(description: str) -> dict[str, Any]:
    # an empty section (null) is as good as none
    return {"description": description, "type": ["object", "null"], "additionalProperties": False, "properties": {}}


def _title(path: tuple[str, ...]) -> str:
    model: Any = Config
    field = None
    for step in path:
        field = model.model_fields[step]
        model = field.annotation
    return (field.description if field else "") or ""


def _value(key: Key) -> dict[str, Any]:
    schema: dict[str, Any] = {"description": f"{key.description}{f' Unit: {key.unit}.' if key.unit else ''}"}
    default = plain_value(key.default)
    if default not in (None, [], {}):
        schema["default"] = default
    schema.update(_type(key))
    return schema


def _type(key: Key) -> dict[str, Any]:
    if key.options:
        return {"anyOf": [{"enum": list(key.options)}, _REFERENCE]}
    if key.kind == "true or false":
        return {"anyOf": [{"type": "boolean"}, _REFERENCE]}
    if key.kind in ("number", "size"):
        number: dict[str, Any] = {"type": "integer"}
        if key.minimum is not None:
            number["minimum"] = key.minimum
        if key.maximum is not None:
            number["maximum"] = key.maximum
        return {"anyOf": [number, _SIZE, _REFERENCE] if key.kind == "size" else [number, _REFERENCE]}
    if key.kind == "instant":
        return {"type": ["integer", "string"]}
    if key.kind == "list of texts":
        return {"type": "array", "items": {"type": "string"}, "minItems": 1}
    if key.kind == "list of groups, or true or false":
        return {"anyOf": [{"type": "boolean"}, {"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
    if key.is_list:
        return {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
    if key.kind in ("mapping of partitions", "mapping of offset windows"):
        inner = {"type": "object", "additionalProperties": {"type": ["integer", "string"]}}
        return {"type": ["object", "null"], "additionalProperties": inner}
    if key.is_map:
        return {"type": ["object", "null"], "additionalProperties": _SCALAR}
    return {"type": ["string", "number"]}
