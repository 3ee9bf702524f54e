"""The configuration of a run that goes on, read again when somebody asks for it (SIGHUP).

Says what has changed by the configuration's own keys. When the change holds is decided elsewhere (kbr.backup.changes).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from enum import Enum

from kbr.app.wiring import backup_options
from kbr.backup.options import BackupOptions
from kbr.config import Config
from kbr.config.keys import all_keys
from kbr.config.problems import Path
from kbr.errors import KbrError
from kbr.runtime.pacing import RateLimit
from kbr.telemetry.logs import get_logger

__all__ = ["FIXED_OPTIONS", "FOLLOWED_KEYS", "Reread"]

_log = get_logger("kbr.backup")

#: What a run follows while it works, by options and the keys that they come from.
FOLLOWED_KEYS: dict[str, Path] = {
    "include": ("source", "topics", "include"),
    "exclude": ("source", "topics", "exclude"),
    "include_internal": ("backup", "include_internal_topics"),
    "on_missing_topic": ("backup", "on_missing_topic"),
    "compression_level": ("backup", "compression_level"),
    "segment_max_bytes": ("backup", "segment_max_bytes"),
    "segment_max_interval_ms": ("backup", "segment_max_interval_ms"),
    "bytes_per_s": ("backup", "rate_limit"),
    "records_per_s": ("backup", "rate_limit_records"),
    "workers": ("backup", "workers"),
    "compress_threads": ("backup", "compress_threads"),
    "extra_verify": ("backup", "extra_verify"),
    "memory_limit": ("backup", "memory_limit"),
    "checkpoint_interval_s": ("backup", "checkpoint_interval_ms"),
}
#: Options that stay.
FIXED_OPTIONS = (
    "backup_id",
    "isolation_level",
    "compression",
    "continuous",
    "consumer_groups",
    "index",
    "max_manifest_bytes",
    "time_window_start_ms",
    "time_window_end_ms",
)
#: Where the keys are that a backup goes by.
_SECTIONS = ("backup_id", "source", "storage", "backup", "encryption", "signing", "limits", "logging")
#: A line shows no more of one value, characters.
_MAX_SHOWN = 200


class Reread:
    """One run's configuration.

    Args:
        config: that it began with.
        load: reads it again.
        wake: whoever waits is to look.
        change_rate: sets the rate limit.
    """

    def __init__(
        self,
        config: Config,
        load: Callable[[], Config],
        *,
        wake: Callable[[], None],
        change_rate: Callable[[RateLimit], None],
    ) -> None:
        self._first = config
        self._config = config
        self._options = backup_options(config)
        self._load = load
        self._wake = wake
        self._change_rate = change_rate
        self._asked = False
        self._found = config

    def ask(self) -> None:
        """Somebody wants it; in a signal handler."""
        self._asked = True
        self._wake()

    def take(self) -> BackupOptions | None:
        """The options as they are to be from now on; None if nobody asked, or they can't be had."""
        if not self._asked:
            return None
        self._asked = False
        try:
            config = self._load()
            options = backup_options(config)
        except KbrError as error:
            _log.error(
                "the configuration can't be read again, everything stays as it was: %s",
                "; ".join(line.strip() for line in str(error).splitlines()),
            )
            return None
        self._found = config
        kept = {name: getattr(self._options, name) for name in FIXED_OPTIONS}
        if options.compression is not self._options.compression:
            # the other one's level is none of this one
            kept["compression_level"] = self._options.compression_level
        staying = [".".join(path) for path in _changed(self._first, config) if path not in FOLLOWED_KEYS.values()]
        if staying:
            _log.warning("a run that goes on does not follow a change of %s: start it anew for that", ", ".join(staying))
        return replace(options, **kept)

    def hold(self, options: BackupOptions) -> None:
        """These hold from now on."""
        before, self._options = self._options, options
        changes = [
            f"{'.'.join(path)}: {_shown(_value(self._config, path))} -> {_shown(_value(self._found, path))}"
            for name, path in FOLLOWED_KEYS.items()
            if getattr(before, name) != getattr(options, name)
        ]
        _log.info("configuration read again: %s", "; ".join(changes) or "nothing has changed that is followed")
        limit = RateLimit(options.bytes_per_s, options.records_per_s)
        if limit != RateLimit(before.bytes_per_s, before.records_per_s):
            self._change_rate(limit)
        self._config = self._found


def _changed(before: Config, after: Config) -> list[Path]:
    return [
        key.path for key in all_keys() if key.path[0] in _SECTIONS and _value(before, key.path) != _value(after, key.path)
    ]


def _value(config: Config, path: Path) -> object:
    found: object = config
    for step in path:
        found = getattr(found, step)
    return found


def _shown(value: object) -> str:
    """A value as it stands in the file, not endless."""
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, (list, tuple)):
        text = f"[{', '.join(str(one) for one in value)}]"
    else:
        text = str(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 3]}..."
