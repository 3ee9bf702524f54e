"""Numbers as people read them: sizes, rates, durations, instants. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from kbr.timing import utc_text

__all__ = [
    "bytes_text",
    "count_text",
    "counted",
    "duration_text",
    "instant_text",
    "local_instant_text",
    "mean_rate_text",
    "rate_text",
]

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def count_text(number: int) -> str:
    """1234567 as 1,234,567."""
    return f"{number:,}"


def counted(number: int, what: str) -> str:
    """1 record, 1,234 records."""
    return f"{count_text(number)} {what}{'' if number == 1 else 's'}"


def bytes_text(number: float) -> str:
    """Bytes with a power-of-two unit: 1536 as 1.5 KiB."""
    if abs(number) < 1024:
        return f"{number:.0f} B"
    size = float(number)
    unit = ""
    for unit in ("KiB", "MiB", "GiB", "TiB", "PiB"):  # noqa: B007  (the last one that was reached is used)
        size /= 1024
        if abs(size) < 1023.95:  # 1023.95 and more would be written as 1024.0
            break
    return f"{size:.1f} {unit}"


def rate_text(bytes_per_s: float) -> str:
    """Bytes per second: 2.0 MiB/s."""
    return f"{bytes_text(bytes_per_s)}/s"


def mean_rate_text(number: float, seconds: float) -> str:
    """Bytes in some seconds as a rate; a dash for no time at all."""
    return rate_text(number / seconds) if seconds > 0 else "-"


def duration_text(seconds: float) -> str:
    """3.25 as 3.2 s, 75 as 1 min 15 s, 3720 as 1 h 2 min."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h"


def instant_text(milliseconds: int | None) -> str:
    """RFC 3339 in UTC with milliseconds; a dash for none, the number for what no calendar has."""
    if milliseconds is None or milliseconds < 0:
        return "-"
    return utc_text(milliseconds) or str(milliseconds)


def local_instant_text(milliseconds: int | None) -> str:
    """The same in this machine's zone, with its offset."""
    instant = _instant(milliseconds)
    if instant is None:
        return instant_text(milliseconds)
    try:
        return instant.astimezone().isoformat(timespec="milliseconds")
    except (OverflowError, OSError, ValueError):
        return instant_text(milliseconds)


def _instant(milliseconds: int | None) -> datetime | None:
    if milliseconds is None or milliseconds < 0:
        return None
    try:
        return _EPOCH + timedelta(milliseconds=milliseconds)
    except OverflowError:
        return None
