"""The kinds of fields that the model is made of: a parser, a kind for the reference page, facts. Knows no keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr
from pydantic.fields import FieldInfo

from kbr.config import names, values

__all__ = [
    "Argv",
    "BackupId",
    "Broker",
    "Bucket",
    "ChoiceError",
    "Endpoint",
    "EntryError",
    "FilePath",
    "FilePaths",
    "FilesystemOptions",
    "Globs",
    "GroupMapping",
    "Groups",
    "IncludeGlobs",
    "Instant",
    "NamePiece",
    "Number",
    "OffsetWindows",
    "OptionalNumber",
    "OptionalSwitch",
    "PartitionChoice",
    "PartitionCounts",
    "PartitionMapping",
    "Prefix",
    "Properties",
    "Secret",
    "Section",
    "Size",
    "StorageClass",
    "Switch",
    "Tags",
    "Text",
    "TokenUrl",
    "TopicConfigs",
    "TopicMapping",
    "Url",
    "choice",
    "fact",
    "key",
    "section",
]

#: S3 takes so many of an object.
MAX_TAGS = 10


class Section(BaseModel):
    """A mapping of known keys; anything else in it is a mistake."""

    # hide_input_in_errors: an input may be a secret
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, defer_build=True, use_attribute_docstrings=False)


def key(
    default: object,
    description: str,
    *,
    kind: str,
    unit: str = "",
    secret: bool = False,
    shown_default: str = "",
    example: str = "",
    minimum: int | None = None,
    maximum: int | None = None,
) -> Any:
    """A field with its facts.

    Args:
        default: the value when no layer gives one; a mapping is copied.
        description: for the reference page: what it does, in a sentence or two.
        kind: what may be written: text, number, size, ...
        unit: of a number: bytes, milliseconds, ...
        secret: never shown; refused on the command line.
        shown_default: how the page names a default that is not a plain value.
        example: YAML for the example file; empty uses the default.
        minimum, maximum: bounds of a number, both allowed.
    """
    facts = {
        "kind": kind,
        "unit": unit,
        "secret": secret,
        "shown_default": shown_default,
        "example": example,
        "minimum": minimum,
        "maximum": maximum,
    }
    bounds: dict[str, Any] = {"ge": minimum, "le": maximum}
    extra: dict[str, Any] = {"x-kbr": facts}
    if isinstance(default, Mapping):
        return Field(
            default_factory=lambda: MappingProxyType(dict(default)),
            description=description,
            repr=not secret and kind not in ("properties", "mapping of options"),
            json_schema_extra=extra,
        )
    return Field(
        default=default,
        description=description,
        repr=not secret,
        json_schema_extra=extra,
        **{name: bound for name, bound in bounds.items() if bound is not None},
    )


def section(model: type[Section], description: str) -> Any:
    """A field that is a section itself."""
    return Field(default_factory=model, description=description)


def fact(field: FieldInfo, name: str) -> Any:
    """One of the facts that `key` was given."""
    extra = field.json_schema_extra
    facts: Any = extra.get("x-kbr", {}) if isinstance(extra, dict) else {}
    return facts.get(name)


def _optional(check: Callable[[object], str]) -> Callable[[object], str | None]:
    """Empty is as good as not given, so that ``${VAR:-}`` means what it looks like."""

    def parse(value: object) -> str | None:
        return None if value is None or value == "" else check(value)

    return parse


def _optional_number(value: object) -> int | None:
    return None if value is None or value == "" else values.parse_int(value)


def _optional_size(value: object) -> int | None:
    return None if value is None or value == "" else values.parse_size(value)


def _optional_switch(value: object) -> bool | None:
    return None if value is None or value == "" else values.parse_bool(value)


def _optional_instant(value: object) -> int | None:
    return None if value is None or value == "" else values.parse_instant(value)


def _secret(value: object) -> SecretStr | None:
    if value is None or isinstance(value, SecretStr):
        return value
    if not isinstance(value, str):
        raise ValueError("must be a text")
    if "\x00" in value:
        raise ValueError("holds a NUL character")
    return SecretStr(value) if value else None


def _argv(value: object) -> tuple[str, ...] | None:
    if value is None:
        return None
    if not isinstance(value, (list, tuple)):
        raise ValueError(
            'must be a list of a program and its arguments, such as ["pass", "show", "kafka"]; no shell runs it'
        )
    if not value or not all(isinstance(part, str) and "\x00" not in part for part in value) or not value[0]:
        raise ValueError("must be a list of texts, the program first")
    return tuple(value)


def _each(check: Callable[[object], str], *, least_one: str = "") -> Callable[[object], tuple[str, ...]]:
    def parse(value: object) -> tuple[str, ...]:
        items = values.parse_list(value)
        if least_one and not items:
            raise ValueError(f"is empty: {least_one}")
        checked: list[str] = []
        for item in items:
            found = check(item)
            if found not in checked:
                checked.append(found)
        return tuple(checked)

    return parse


def _groups(value: object) -> tuple[str, ...]:
    """All groups, none, or those of some names and globs."""
    if value == "" or value is None:
        return ()
    try:
        return ("*",) if values.parse_bool(value) else ()
    except ValueError:
        if not isinstance(value, (str, list, tuple)):
            raise ValueError("must be true, false, or a list of consumer groups' names and globs") from None
        return _each(names.check_group)(value)


def _pairs(
    check_key: Callable[[object], Any], check_value: Callable[[object], Any], what: str
) -> Callable[[object], Mapping[Any, Any]]:
    def parse(value: object) -> Mapping[Any, Any]:
        if not isinstance(value, Mapping):
            raise ValueError(f"must be a mapping: {what}")
        pairs: dict[Any, Any] = {}
        for name, entry in value.items():
            try:
                pairs[check_key(name)] = check_value(entry)
            except ValueError as error:
                raise EntryError(str(name), error) from error
        return pairs

    return parse


class EntryError(ValueError):
    """A mistake in one entry of a mapping; ``steps`` lead to it."""

    def __init__(self, name: str, cause: ValueError) -> None:
        inner = cause.steps if isinstance(cause, EntryError) else ()
        super().__init__(str(cause))
        self.steps: tuple[str, ...] = (name, *inner)


def _property_value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if not isinstance(value, str):
        raise ValueError("must be a text, a number, true or false")
    if "\x00" in value:
        raise ValueError("holds a NUL character")
    return value


def _tags(value: object) -> Mapping[str, str]:
    tags = _pairs(names.check_tag, names.check_tag_value, "tag: value")(value)
    if len(tags) > MAX_TAGS:
        raise ValueError(f"are more than the {MAX_TAGS} that an object can have")
    return tags


def _partition(value: object) -> int:
    number = values.parse_int(value)
    if not 0 <= number <= 2**31 - 1:
        raise ValueError(f"partition {number} is out of range")
    return number


def _offsets(value: object) -> str:
    """A range of offsets, as it was written."""
    values.parse_offsets(value)
    return str(value)


def _freeze(value: Mapping[Any, Any]) -> Mapping[Any, Any]:
    return MappingProxyType(
        {name: _freeze(entry) if isinstance(entry, dict) else entry for name, entry in value.items()}
    )


def choice(*options: str, optional: bool = False) -> BeforeValidator:
    """One of some words, in any case."""
    known = {option.lower(): option for option in options}

    def parse(value: object) -> str | None:
        if optional and (value is None or value == ""):
            return None
        if isinstance(value, str):
            word = known.get(value.lower())
            if word is not None:
                return word
        raise ChoiceError(value, options)

    return BeforeValidator(parse)


class ChoiceError(ValueError):
    """A word that is not among those known."""

    def __init__(self, value: object, options: Sequence[str]) -> None:
        super().__init__(f"must be one of {', '.join(options)}{values.not_this(value)}")
        near = (
            get_close_matches(value.lower(), [option.lower() for option in options], n=1)
            if isinstance(value, str)
            else []
        )
        #: The option that was probably meant; empty if none is near.
        self.nearest = next((option for option in options if option.lower() in near), "")


Text = Annotated[str | None, BeforeValidator(_optional(values.parse_text))]
FilePath = Annotated[str | None, BeforeValidator(_optional(names.check_path))]
FilePaths = Annotated[tuple[str, ...], BeforeValidator(_each(names.check_path))]
Url = Annotated[str | None, BeforeValidator(_optional(names.check_url))]
Endpoint = Annotated[str | None, BeforeValidator(_optional(names.check_endpoint))]
TokenUrl = Annotated[str | None, BeforeValidator(_optional(names.check_token_url))]
Bucket = Annotated[str | None, BeforeValidator(_optional(names.check_bucket))]
Prefix = Annotated[str | None, BeforeValidator(_optional(names.check_prefix))]
BackupId = Annotated[str | None, BeforeValidator(_optional(names.check_backup_id))]
Secret = Annotated[SecretStr | None, BeforeValidator(_secret)]
Argv = Annotated[tuple[str, ...] | None, BeforeValidator(_argv)]
Number = Annotated[int, BeforeValidator(values.parse_int)]
OptionalNumber = Annotated[int | None, BeforeValidator(_optional_number)]
Size = Annotated[int, BeforeValidator(values.parse_size)]
OptionalSize = Annotated[int | None, BeforeValidator(_optional_size)]
Rate = Annotated[int | None, BeforeValidator(values.parse_rate)]
RecordRate = Annotated[int | None, BeforeValidator(values.parse_record_rate)]
Instant = Annotated[int | None, BeforeValidator(_optional_instant)]
Switch = Annotated[bool, BeforeValidator(values.parse_bool)]
OptionalSwitch = Annotated[bool | None, BeforeValidator(_optional_switch)]
Broker = Annotated[tuple[str, ...], BeforeValidator(_each(names.check_broker, least_one="name a broker"))]
Globs = Annotated[tuple[str, ...], BeforeValidator(_each(names.check_glob))]
IncludeGlobs = Annotated[
    tuple[str, ...], BeforeValidator(_each(names.check_glob, least_one="give a topic name or a glob, '*' for all"))
]
Properties = Annotated[
    Mapping[str, str],
    BeforeValidator(_pairs(names.check_property_name, _property_value, "property: value")),
    AfterValidator(_freeze),
]
TopicConfigs = Annotated[
    Mapping[str, str],
    BeforeValidator(_pairs(values.parse_text, _property_value, "config: value")),
    AfterValidator(_freeze),
]
FilesystemOptions = Annotated[
    Mapping[str, str],
    BeforeValidator(_pairs(names.check_option_name, _property_value, "option: value")),
    AfterValidator(_freeze),
]
Tags = Annotated[Mapping[str, str], BeforeValidator(_tags), AfterValidator(_freeze)]
StorageClass = Annotated[str | None, BeforeValidator(_optional(names.check_storage_class))]
TopicMapping = Annotated[
    Mapping[str, str],
    BeforeValidator(_pairs(names.check_topic_pattern, names.check_topic_pattern, "source topic: target topic")),
    AfterValidator(_freeze),
]
NamePiece = Annotated[str, BeforeValidator(names.check_name_piece)]
PartitionChoice = Annotated[
    Mapping[str, tuple[int, ...]],
    BeforeValidator(_pairs(names.check_glob, values.parse_numbers, "topic: partitions, such as 0,2-5")),
    AfterValidator(_freeze),
]
PartitionCounts = Annotated[
    Mapping[str, int],
    BeforeValidator(_pairs(names.check_glob, values.parse_count, "topic: number of partitions")),
    AfterValidator(_freeze),
]
Groups = Annotated[tuple[str, ...], BeforeValidator(_groups)]
GroupMapping = Annotated[
    Mapping[str, str],
    BeforeValidator(_pairs(names.check_group, names.check_group, "group of the backup: group of the target")),
    AfterValidator(_freeze),
]
PartitionMapping = Annotated[
    Mapping[str, Mapping[int, int]],
    BeforeValidator(
        _pairs(
            names.check_topic,
            _pairs(_partition, _partition, "source partition: target partition"),
            "topic: {source partition: target partition}",
        )
    ),
    AfterValidator(_freeze),
]
OffsetWindows = Annotated[
    Mapping[str, Mapping[int, str]],
    BeforeValidator(
        _pairs(names.check_topic, _pairs(_partition, _offsets, "partition: FROM-TO"), "topic: {partition: FROM-TO}")
    ),
    AfterValidator(_freeze),
]
