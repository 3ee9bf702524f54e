"""What all verbs share: output, logging and configuration flags, and the way from flags to a `Config`."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

from kbr.cli.render import Block, Output, emit

if TYPE_CHECKING:
    from kbr.config import Config

__all__ = [
    "Invocation",
    "chosen_backup",
    "client_options",
    "client_sets",
    "config_options",
    "exporting_verb",
    "filter_options",
    "group_options",
    "groups_of",
    "last_start",
    "plain_verb",
    "rates_of",
    "read_mapping",
    "rewind_option",
    "split_commas",
    "storage_option",
    "storage_words",
    "tell_start",
    "verb",
    "window_start",
]

Mode = Literal["backup", "restore"]
_Function = TypeVar("_Function", bound=Callable[..., Any])
_SESSION_NAMES = ("output", "log_format", "verbose", "quiet", "debug")


@dataclass(frozen=True, slots=True, kw_only=True)
class Invocation:
    """How a command was called: what it may print, and how."""

    output: Output
    log_format: str | None
    level: str | None
    quiet: bool

    def load(
        self,
        path: Path | None,
        *,
        sets: Sequence[str] = (),
        overrides: dict[str, object] | None = None,
        mode: Mode | None = None,
        run_commands: bool = True,
        all_clusters: bool = False,
    ) -> Config:
        """Build the configuration from the file, the environment and the flags, and set up logging with it."""
        from kbr.config import load_config

        config = load_config(
            path,
            sets=sets,
            overrides={"logging.format": self.log_format, "logging.level": self.level, **(overrides or {})},
            environ=os.environ,
            mode=mode,
            run_commands=run_commands,
            all_clusters=all_clusters,
        )
        self._configure_logging(config.logging.format, config.logging.level)
        if config.warnings:
            from kbr.telemetry.logs import get_logger

            for warning in config.warnings:
                get_logger("kbr.config").warning("%s", warning)
        return config

    def start_logging(self) -> None:
        """Set up logging for a verb that has no configuration."""
        self._configure_logging(self.log_format or "plain", self.level or "info")

    @staticmethod
    def _configure_logging(log_format: Any, level: str) -> None:
        from kbr.telemetry import logs

        logs.configure(form=log_format, level=level)

    def emit(self, document: Mapping[str, Any], table: Callable[[Any], Sequence[Block]]) -> None:
        """Write the result."""
        emit(document, self.output, table)

    def finish(self, report: Any, table: Callable[[Any], Sequence[Block]]) -> int:
        """Write a use case's report and return its exit code, which is in the document too."""
        self.emit({**report.to_document(), "exit_code": report.exit_code}, table)
        return int(report.exit_code)


def _read_seconds(ctx: click.Context, parameter: click.Parameter, value: str) -> float:
    """A duration such as 60s, 5m or 1h, as seconds."""
    match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)(s|m|h)", value)
    seconds = float(match.group(1)) * {"s": 1, "m": 60, "h": 3600}[match.group(2)] if match else 0.0
    if not seconds:
        raise click.BadParameter(f"{value!r} is no duration such as 60s, 5m or 1h", ctx=ctx, param=parameter)
    return seconds


def verb(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the flags of every verb; the function gets them as one ``invocation``."""
    return _with_session(function, ("table", "json", "yaml"))


def exporting_verb(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same for a verb whose result may be large: it writes it itself, piece by piece."""
    return _with_session(function, ("csv", "json", "table"))


def plain_verb(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same for a verb that writes bytes, not a result: it has no -o of this kind."""
    return _with_session(function, ())


def _with_session(function: Callable[..., Any], outputs: Sequence[str]) -> Callable[..., Any]:
    @functools.wraps(function)
    def with_invocation(**values: Any) -> Any:
        session = {name: values.pop(name) for name in _SESSION_NAMES if outputs or name != "output"}
        if session["verbose"] and session["quiet"]:
            raise click.UsageError("-v and -q exclude each other")
        level = "debug" if session["verbose"] else "warning" if session["quiet"] else None
        invocation = Invocation(
            output=session.get("output", "table"), log_format=session["log_format"], level=level, quiet=session["quiet"]
        )
        return function(invocation=invocation, **values)

    output_option = click.option(
        "-o",
        "--output",
        type=click.Choice(outputs),
        default=next(iter(outputs), None),
        show_default=True,
        help="Form of the result on standard output; logs and progress go to standard error.",
    )
    decorators = (
        *((output_option,) if outputs else ()),
        click.option("--log-format", type=click.Choice(["plain", "json"]), help="Form of the log lines."),
        click.option("-v", "--verbose", is_flag=True, help="More log lines."),
        click.option("-q", "--quiet", is_flag=True, help="Warnings and errors only, no progress."),
        click.option("--debug", is_flag=True, help="Show the traceback of an error."),
    )
    decorated: Callable[..., Any] = with_invocation
    for decorate in reversed(decorators):
        decorated = decorate(decorated)
    return decorated


def config_options(function: _Function) -> _Function:
    """Add -c and --set."""
    decorate_file = click.option(
        "-c",
        "--config",
        "config_path",
        type=click.Path(dir_okay=False, path_type=Path),
        envvar="KBR_CONFIG",
        metavar="FILE",
        help="Configuration file (YAML).  [env: KBR_CONFIG]",
    )
    decorate_set = click.option(
        "--set",
        "sets",
        multiple=True,
        metavar="KEY=VALUE",
        help="Any key of the file but the secret ones, such as backup.segment_max_bytes=64MiB; repeatable.",
    )
    return decorate_file(decorate_set(function))


def storage_option(function: _Function) -> _Function:
    """Add --storage."""
    return click.option("--storage", metavar="URL", help="Where backups lie: a folder or s3://bucket/prefix.")(function)


def client_options(function: _Function) -> _Function:
    """Add -X and --command-config."""
    decorate_property = click.option(
        "-X",
        "properties",
        multiple=True,
        metavar="PROPERTY=VALUE",
        help="Any librdkafka property but the secret ones; repeatable.",
    )
    decorate_file = click.option(
        "--command-config",
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="FILE",
        help="A client.properties file of Kafka's own tools: how to reach the cluster and to log in. Everything else wins "
        "over it.",
    )
    return decorate_property(decorate_file(function))


def filter_options(function: _Function) -> _Function:
    """Add the flags that backup and restore share."""
    decorators = (
        click.option("--backup-id", metavar="ID", help="The backup's name."),
        click.option(
            "-b",
            "--bootstrap-servers",
            "--bootstrap-server",
            "bootstrap_servers",
            metavar="HOST:PORT",
            help="Brokers to start from; several with commas.",
        ),
        click.option(
            "-t", "--topic", "topics", multiple=True, metavar="GLOB", help="Topic to take, by name or glob; repeatable."
        ),
        click.option(
            "--exclude-topic", "excluded", multiple=True, metavar="GLOB", help="Topic to leave out; repeatable."
        ),
        click.option(
            "--rate-limit",
            "--bwlimit",
            "rate_limits",
            multiple=True,
            metavar="RATE",
            help="At most 50MB/s (uncompressed keys, values and headers) or 5000records/s, all workers together; "
            "repeatable. kbr status changes it later.",
        ),
        click.option("--workers", type=int, metavar="N", help="Worker processes; 0 is one per core."),
        client_options,
        click.option("-n", "--dry-run", is_flag=True, help="Show what would be done, and do nothing."),
        click.option(
            "--stats",
            callback=_read_seconds,
            default="60s",
            show_default=True,
            metavar="DURATION",
            help="Time between progress lines where no terminal shows a live table.",
        ),
    )
    for decorate in reversed(decorators):
        function = decorate(function)
    return function


def group_options(all_help: str, some_help: str) -> Callable[[_Function], _Function]:
    """Add --groups and --group."""

    def decorate(function: _Function) -> _Function:
        decorate_all = click.option("--groups", "all_groups", is_flag=True, help=all_help)
        decorate_some = click.option("-g", "--group", "groups", multiple=True, metavar="GLOB", help=some_help)
        return decorate_all(decorate_some(function))

    return decorate


def rewind_option(function: _Function) -> _Function:
    """Add --allow-rewind."""
    return click.option(
        "--allow-rewind", is_flag=True, help="Also move groups back that have committed larger offsets in the target."
    )(function)


def groups_of(all_groups: bool, groups: Sequence[str]) -> object:
    """What the flags say of groups, as a key's value; None if they say nothing."""
    if all_groups and groups:
        raise click.UsageError("--groups and --group exclude each other")
    return True if all_groups else list(groups) or None


def client_sets(properties: Sequence[str], side: Literal["source", "target"]) -> list[str]:
    """-X values as --set values."""
    for one in properties:
        if "=" not in one:
            # only what looks like a name is said again: the rest may be a secret
            name = re.sub(r"[^A-Za-z0-9._-].*", "...", one, flags=re.DOTALL)
            raise click.UsageError(f"-X takes PROPERTY=VALUE, not {name!r}")
    return [f"{side}.client.{one}" for one in properties]


def rates_of(values: Sequence[str]) -> dict[str, str]:
    """--rate-limit flags as the keys that they set; ``none`` takes a limit off.

    Raises:
        click.UsageError: one is no rate.
    """
    from kbr.config.values import parse_rate, parse_record_rate

    found: dict[str, str] = {}
    for value in split_commas(values) or ():
        try:
            if value.lower() in {"none", "off"}:
                found.update(rate_limit="none", rate_limit_records="none")
            elif "rec" in value.lower():
                parse_record_rate(value)
                found["rate_limit_records"] = value
            else:
                parse_rate(value)
                found["rate_limit"] = value
        except ValueError as error:
            raise click.UsageError(f"--rate-limit {error}") from error
    return found


def window_start(from_timestamp: str | None, last: str | None) -> str | int | None:
    """Where a window of time begins: one or the other, or neither."""
    start = last_start(last)
    if start is None:
        return from_timestamp
    if from_timestamp is not None:
        raise click.UsageError("--from-timestamp and --last exclude each other")
    return start


def tell_start(last: str | None, start_ms: int | None) -> None:
    """Say which instant --last is: the same window has to be asked for by that."""
    if last is None or start_ms is None:
        return
    from kbr.telemetry.logs import get_logger

    get_logger("kbr.cli").info(
        "--last %s is --from-timestamp %d; to go on after an interruption, give that instead", last, start_ms
    )


def last_start(last: str | None) -> int | None:
    """Where --last begins, milliseconds since the epoch: so long before now. None if it was not given.

    Raises:
        click.UsageError: it is no duration.
    """
    if last is None:
        return None
    from kbr.config.values import parse_duration
    from kbr.timing import SYSTEM_CLOCK

    try:
        return max(0, SYSTEM_CLOCK.now_ms() - parse_duration(last))
    except ValueError as error:
        raise click.UsageError(f"--last {error}") from error


def storage_words(storage: str | None, sets: Sequence[str]) -> list[str | None]:
    """All that may name the storage beside the configuration file."""
    return [storage, *sets, os.environ.get("KBR_STORAGE_URL"), os.environ.get("KBR_STORAGE_BACKEND")]


def split_commas(values: Sequence[str]) -> list[str] | None:
    """Repeated flags whose values may hold commas, as one list; None if there are none."""
    parts = [part.strip() for value in values for part in value.split(",")]
    return [part for part in parts if part] or None


def chosen_backup(config: Config) -> str:
    """The backup that was named, on the command line or in the configuration.

    Raises:
        click.UsageError: none was.
    """
    if config.backup_id is None:
        raise click.UsageError("which backup? give its BACKUP_ID (kbr list shows them), or set backup_id in the file")
    return config.backup_id


def read_mapping(values: Sequence[str], flag: str, form: str) -> dict[str, str] | None:
    """LEFT=RIGHT flags as a mapping; None if there are none.

    Raises:
        click.UsageError: another form, or one left side with two right sides.
    """
    pairs: dict[str, str] = {}
    for value in split_commas(values) or ():
        left, separator, right = value.partition("=")
        if not separator or not left or not right:
            raise click.UsageError(f"{flag} takes {form}, not {value!r}")
        if pairs.setdefault(left, right) != right:
            raise click.UsageError(f"{flag} maps {left} twice, to {pairs[left]} and to {right}")
    return pairs or None
