"""Texts to values: whole numbers, switches, sizes, instants. Pure; knows no keys.

Every parser takes the text from a file, the environment or a flag, or the finished value from a program, and
raises ValueError with a sentence that says what would be right.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from fractions import Fraction

from kbr.secrecy import redact

__all__ = ["not_this", "parse_bool", "parse_count", "parse_duration", "parse_instant", "parse_int", "parse_list", "parse_numbers", "parse_offsets", "parse_rate", "parse_record_rate", "parse_size", "parse_text", "shown"]

_INTEGER = re.compile(r"[+-]?[0-9](?:_?[0-9]){0,18}")
_SIZE = re.compile(r"([0-9]{1,19}(?:\.[0-9]{1,9})?) ?([A-Za-z]*)")
_UNITS = {
    "": 1,
    "B": 1,
    "kB": 10**3,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}
_SWITCHES = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_ISO = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})"
    r"(?:[Tt ]([0-9]{2}):([0-9]{2})(?::([0-9]{2})(?:[.,]([0-9]{1,9}))?)?"
    r"(?: ?([Zz]|[+-][0-9]{2}(?::?[0-9]{2})?))?)?"
)
_DURATION_MS = {"w": 604_800_000, "d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}
_DURATION = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)(ms|[wdhms])")
_ISO_DURATION = re.compile(
    r"P(?:([0-9]{1,9})W)?(?:([0-9]{1,9})D)?"
    r"(?:T(?=[0-9])(?:([0-9]{1,9})H)?(?:([0-9]{1,9})M)?(?:([0-9]{1,12}(?:\.[0-9]{1,3})?)S)?)?"
)
_OFFSETS = re.compile(r"([0-9]{1,18})|([0-9]{0,18})-([0-9]{0,18})")
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
#: 9999-12-31T23:59:59.999Z, the last instant that ISO-8601 and datetime can say.
MAX_INSTANT_MS = 253_402_300_799_999
#: Most partitions of a topic that a config can speak of: more than any cluster has.
MAX_PARTITIONS = 1_000_000
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def shown(value: object) -> str:
    """A value as messages quote it: on one line, not too long."""
    # before it is cut: what is left of a secret would not be known as one
    text = redact(value if isinstance(value, str) else repr(value))
    return ascii(text if len(text) <= 60 else text[:57] + "...")


def parse_text(value: object) -> str:
    """A text on one line."""
    if not isinstance(value, str):
        raise ValueError("must be a text")
    if _CONTROL.search(value):
        raise ValueError("holds a control character")
    return value


def parse_int(value: object) -> int:
    """A whole number."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and _INTEGER.fullmatch(value):
        return int(value)
    raise ValueError(f"must be a whole number{not_this(value)}")


def parse_count(value: object) -> int:
    """A number of partitions."""
    number = parse_int(value)
    if not 1 <= number <= MAX_PARTITIONS:
        raise ValueError(f"must be from 1 to {MAX_PARTITIONS}{not_this(value)}")
    return number


def parse_numbers(value: object) -> tuple[int, ...]:
    """Partition numbers: a list, or a text such as 0,2-5; each once, in order."""
    items = [value] if isinstance(value, int) else parse_list(value)
    found: set[int] = set()
    for item in items:
        first, dash, last = item.partition("-") if isinstance(item, str) else (item, "", "")
        low = parse_int(first.strip() if isinstance(first, str) else first)
        high = parse_int(last.strip()) if dash else low
        if not 0 <= low <= high < MAX_PARTITIONS:
            raise ValueError(f"must be partitions such as 0,2-5, each below {MAX_PARTITIONS}{not_this(value)}")
        found.update(range(low, high + 1))
    if not found:
        raise ValueError("names no partition")
    return tuple(sorted(found))


def parse_bool(value: object) -> bool:
    """True or false (yes, no, on, off too)."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in _SWITCHES:
        return _SWITCHES[value.lower()]
    raise ValueError(f"must be true or false{not_this(value)}")


def parse_size(value: object) -> int:
    """Bytes: a bare number, or one with a unit: MB is 10^6, MiB is 2^20."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"must be a size such as 64MiB or 50MB{not_this(value)}")
    number, unit = match.groups()
    if unit not in _UNITS:
        raise ValueError(f"unknown unit {unit!r}: {_unit_advice(number, unit)}")
    size = Fraction(number) * _UNITS[unit]
    if size.denominator != 1:
        raise ValueError(f"must be a whole number of bytes{not_this(value)}")
    return int(size)


def parse_rate(value: object) -> int | None:
    """Bytes per second, such as 50MB/s; ``none`` is no limit, and so is nothing.

    A bare number is refused: other tools mean KiB by it.
    """
    if value is None or (isinstance(value, str) and value.lower() in {"", "none", "off"}):
        return None
    if not isinstance(value, str) or re.fullmatch(r"[0-9._]*", value):
        raise ValueError(f"needs a unit, such as 50MB/s{not_this(value)}")
    try:
        rate = parse_size(value.removesuffix("/s"))
    except ValueError as error:
        raise ValueError(f"must be a rate such as 50MB/s: {error}") from error
    if rate < 1:
        raise ValueError("must be at least 1B/s; none is no limit")
    return rate


def parse_record_rate(value: object) -> int | None:
    """Records per second: a whole number, with or without ``records/s``; ``none`` is no limit, and so is nothing."""
    if value is None or (isinstance(value, str) and value.lower() in {"", "none", "off"}):
        return None
    if isinstance(value, str):
        value = re.sub(r" ?rec(?:ord)?s?/s$", "", value)
    try:
        rate = parse_int(value)
    except ValueError as error:
        raise ValueError(f"must be a rate such as 5000records/s: {error}") from error
    if rate < 1:
        raise ValueError("must be at least 1 record/s; none is no limit")
    return rate


def _unit_advice(number: str, unit: str) -> str:
    if len(unit) == 1 and f"{unit.upper()}iB" in _UNITS:
        letter = unit.upper()
        return f"write {number}{letter}B (powers of 1000) or {number}{letter}iB (powers of 1024)"
    for known in _UNITS:
        if known.lower() == unit.lower():
            return f"write {number}{known}"
    return "use B, kB, MB, GB, TB (powers of 1000) or KiB, MiB, GiB, TiB (powers of 1024)"


def parse_instant(value: object) -> int:
    """Epoch milliseconds, or ISO-8601 with a zone; the result is milliseconds since the epoch.

    A time without a zone is an error that shows both candidates: nobody restores to the wrong hour by accident.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return _epoch_ms(value, str(value))
    if isinstance(value, str):
        if re.fullmatch(r"[0-9]{1,20}", value):
            return _epoch_ms(int(value), value)
        match = _ISO.fullmatch(value)
        if match is not None:
            return _iso_ms(value, match)
    raise ValueError(f"must be epoch milliseconds or a time such as 2024-05-01T12:00:00Z{not_this(value)}")


def _epoch_ms(number: int, text: str) -> int:
    # 10 digits are seconds from 2001 to 2286, but as milliseconds they are a day of 1970
    if len(text) == 10:
        raise ValueError(f"{text} looks like seconds; did you mean {text}000 (milliseconds)?")
    if len(text) in (16, 19):
        unit = "microseconds" if len(text) == 16 else "nanoseconds"
        raise ValueError(f"{text} looks like {unit}; did you mean {text[:13]} (milliseconds)?")
    if not 0 <= number <= MAX_INSTANT_MS:
        raise ValueError(f"{text} is out of range: epoch milliseconds are 0 to {MAX_INSTANT_MS}")
    return number


def _iso_ms(text: str, match: re.Match[str]) -> int:
    year, month, day, hour, minute, second, fraction, zone = match.groups()
    if fraction and fraction[3:].strip("0"):
        raise ValueError(f"{shown(text)} is finer than a millisecond")
    try:
        naive = datetime(  # noqa: DTZ001  (the zone is what is asked about)
            int(year),
            int(month),
            int(day),
            int(hour or 0),
            int(minute or 0),
            int(second or 0),
            int((fraction or "0")[:3].ljust(3, "0")) * 1000,
        )
        if zone is None:
            raise ValueError(f"{shown(text)} has no time zone: {_candidates(naive)}")
        instant = naive.replace(tzinfo=_zone(zone))
        number = (instant - _EPOCH) // timedelta(milliseconds=1)
    except (ValueError, OverflowError) as error:
        if "time zone" in str(error):
            raise
        raise ValueError(f"{shown(text)} is not a time: {error}") from error
    if not 0 <= number <= MAX_INSTANT_MS:
        raise ValueError(f"{shown(text)} is out of range: from 1970-01-01T00:00:00Z to the year 9999")
    return number


def _zone(text: str) -> timezone:
    if text in "Zz":
        return timezone.utc
    digits = text[1:].replace(":", "").ljust(4, "0")
    hours, minutes = int(digits[:2]), int(digits[2:])
    if hours > 23 or minutes > 59:
        raise ValueError(f"offset {text} is out of range")
    offset = timedelta(hours=hours, minutes=minutes)
    return timezone(-offset if text[0] == "-" else offset)


def _candidates(naive: datetime) -> str:
    precision = "milliseconds" if naive.microsecond else "seconds"
    utc = naive.isoformat(timespec=precision) + "Z"
    try:
        local = naive.astimezone().isoformat(timespec=precision)
    except (OverflowError, OSError, ValueError):
        return f"write {utc} for UTC"
    return f"write {utc} for UTC, or {local} for this machine's local time"


def parse_duration(value: object) -> int:
    """A length of time, such as 24h, 90m, 1h30m, 7d or ISO-8601's P1DT2H; the result is milliseconds, at least 1.

    A bare number is refused: it may be meant in seconds or in milliseconds.
    """
    text = value if isinstance(value, str) else ""
    parts = _DURATION.findall(text) if re.fullmatch(f"(?:{_DURATION.pattern})+", text) else []
    if not parts and (match := _ISO_DURATION.fullmatch(text)) is not None:
        parts = [(number, unit) for number, unit in zip(match.groups(), "wdhms", strict=True) if number]
    units = [unit for _number, unit in parts]
    if not parts or len(set(units)) < len(units):
        raise ValueError(f"must be a duration such as 24h, 90m, 1h30m or 7d{not_this(value)}")
    total = sum((Fraction(number) * _DURATION_MS[unit] for number, unit in parts), Fraction(0))
    if total.denominator != 1:
        raise ValueError(f"{shown(value)} is finer than a millisecond")
    if not 1 <= total <= MAX_INSTANT_MS:
        raise ValueError(f"{shown(value)} is out of range: from 1ms on, less than 8000 years")
    return int(total)


def parse_offsets(value: object) -> tuple[int, int | None]:
    """Offsets as FROM-TO, both included; FROM-, -TO, or one alone: the first, and the last or None for no end."""
    match = _OFFSETS.fullmatch(str(value)) if isinstance(value, (str, int)) and not isinstance(value, bool) else None
    if match is None or match.group() == "-":
        raise ValueError(f"must be offsets such as 100-200, 100- or -200{not_this(value)}")
    only, first, last = match.groups()
    if only is not None:
        return int(only), int(only)
    start, end = int(first or 0), int(last) if last else None
    if end is not None and end < start:
        raise ValueError(f"{shown(value)} ends before it begins")
    return start, end


def parse_list(value: object) -> Sequence[object]:
    """A list; a text is split at its commas."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",")] if value.strip() else []
    if isinstance(value, (list, tuple)):
        return list(value)
    raise ValueError("must be a list")


def not_this(value: object) -> str:
    """The end of a message: what was there instead, where that is short."""
    return f", not {shown(value)}" if isinstance(value, (str, int, float)) else ""
