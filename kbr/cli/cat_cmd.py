"""``kbr cat``: flags as kcat has them, and records as bytes on standard output, written while they are read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from kbr.cli.options import (
    Invocation,
    chosen_backup,
    last_start,
    plain_verb,
    split_commas,
    storage_option,
)
from kbr.cli.record_format import Formatter, json_line, parse_format, unescape
from kbr.cli.render import emit_bytes

__all__ = ["command", "read_offsets"]

#: What is written at once, bytes: a reader that had enough is noticed after so much.
_CHUNK_BYTES = 128 * 1024
_OFFSET = re.compile(r"beginning|-?[0-9]{1,18}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Offsets:
    """What the -o flags say."""

    first: int | None = None
    start_ms: str | None = None
    before: str | None = None


class _Count(click.IntRange):
    """A number of records; whoever gives a file has taken -c for what it is elsewhere."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter as error:
            more = "; -c is the count here, as in kcat: a configuration is given by --config"
            raise click.BadParameter(f"{error.message.rstrip('.')}{more}", ctx=ctx, param=param) from error


@click.command("cat")
@click.argument("backup_id", required=False)
@click.option("-t", "--topic", "topics", multiple=True, metavar="GLOB", help="Topic, by name or glob; repeatable. Else all.")
@click.option(
    "-p", "--partition", "partitions", multiple=True, type=click.IntRange(min=0), metavar="N", help="Partition; repeatable."
)
@click.option(
    "-o",
    "--offset",
    "offsets",
    multiple=True,
    metavar="OFFSET",
    help="Where to begin: beginning, N, or -N for the last N offsets of each partition; s@T and e@T: records from time T "
    "on, and before it; repeatable.",
)
@click.option("--to-offset", type=click.IntRange(min=0), metavar="N", help="The last offset, itself included.")
@click.option("-c", "--count", type=_Count(min=0), metavar="N", help="No more than N records, all together.")
@click.option("--from-timestamp", metavar="T", help="Records from this time on: epoch ms, or ISO-8601 with a zone.")
@click.option("--to-timestamp", metavar="T", help="Records up to this time, itself included.")
@click.option("--last", metavar="DURATION", help="Records of the last 24h, 90m, 7d, before now.")
@click.option("-f", "--format", "form", metavar="FORMAT", help=r"kcat's: %s %S %R %k %K %t %p %o %T %h %% \n \t \xXX.")
@click.option("-J", "as_json", is_flag=True, help="The same as --output json.")
@click.option("--output", "form_name", type=click.Choice(["raw", "json"]), default="raw", show_default=True,
              help="raw: the records' bytes; json: a line of JSON for each record. -o is the offset here.")  # fmt: skip
@click.option("-D", "--delimiter", default=r"\n", show_default=True, metavar="TEXT", help="What ends a record.")
@click.option("-K", "--key-delimiter", metavar="TEXT", help="Print keys, too, and this between key and value.")
@click.option("-Z", "null_text", is_flag=True, help="Print null keys and values as NULL.")
@click.option("--config", "config_path", type=click.Path(dir_okay=False, path_type=Path), envvar="KBR_CONFIG", metavar="FILE",
              help="Configuration file (YAML); -c is the count here.  [env: KBR_CONFIG]")  # fmt: skip
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="Any key of the file but the secret ones; repeatable.")
@storage_option
@plain_verb
def command(
    *,
    invocation: Invocation,
    backup_id: str | None,
    topics: tuple[str, ...],
    partitions: tuple[int, ...],
    offsets: tuple[str, ...],
    to_offset: int | None,
    count: int | None,
    from_timestamp: str | None,
    to_timestamp: str | None,
    last: str | None,
    form: str | None,
    as_json: bool,
    form_name: str,
    delimiter: str,
    key_delimiter: str | None,
    null_text: bool,
    config_path: Path | None,
    sets: tuple[str, ...],
    storage: str | None,
) -> int:
    """Print a backup's records, as kcat prints a topic's.

    By topic, partition and offset. Without -f or -J, values as the bytes that they are, each with a newline behind it:
    what is in them may act on a terminal, JSON lines can't. Only the blocks that can hold the wanted records are read.

    \b
    kbr cat --storage s3://backups/kafka nightly-1 -t orders -p 0 -o 1234 -c 10
    kbr cat --storage s3://backups/kafka nightly-1 -t orders --from-timestamp 2024-05-01T12:00:00Z -J
    kbr cat --storage ./backups first -t orders -f '%T %k: %s\\n' | head
    """
    found = read_offsets(offsets)
    start = [one for one in (from_timestamp, found.start_ms, last) if one is not None]
    if len(start) > 1 or (to_timestamp is not None and found.before is not None):
        raise click.UsageError("--from-timestamp, -o s@T and --last say the same, and so do --to-timestamp and -o e@T: give one")
    formatter = _formatter(
        form, delimiter, key_delimiter, as_json=as_json or form_name == "json", null=b"NULL" if null_text else b""
    )
    config = invocation.load(config_path, sets=sets, overrides={"storage.url": storage, "backup_id": backup_id})
    from kbr.app.reading import opened_backup

    with opened_backup(config, chosen_backup(config)) as backup:
        blocks = backup.blocks(
            split_commas(topics) or (),
            partitions,
            from_timestamp=start[0] if last is None and start else last_start(last),
            to_timestamp=to_timestamp if found.before is None else _just_before(found.before),
            from_offset=found.first,
            to_offset=to_offset,
            limit=count,
        )
        for chunk in _chunks(formatter(place, record) for place, records in blocks for record in records):
            if not emit_bytes(chunk):
                break
    return 0


def read_offsets(values: tuple[str, ...]) -> _Offsets:
    """What -o says, as kcat has it.

    Raises:
        click.UsageError: it is no offset, or two of a kind.
    """
    first: int | None = None
    start_ms: str | None = None
    before: str | None = None
    for value in values:
        kind, _, instant = value.partition("@")
        if kind == "s" and instant and start_ms is None:
            start_ms = instant
        elif kind == "e" and instant and before is None:
            before = instant
        elif first is None and _OFFSET.fullmatch(value):
            first = 0 if value == "beginning" else int(value)
        else:
            twice = (kind in ("s", "e") and instant) or _OFFSET.fullmatch(value)
            hint = "; -J prints JSON lines" if value in ("json", "jsonl", "yaml", "table") else ""
            raise click.UsageError(
                f"-o {value} stands beside another one of its kind"
                if twice
                else f"-o takes beginning, N, -N, s@T or e@T, not {value!r}{hint}"
            )
    return _Offsets(first=first, start_ms=start_ms, before=before)


def _just_before(instant: str) -> int:
    """Kcat's e@T is not included."""
    from kbr.config.values import parse_instant

    try:
        return parse_instant(instant) - 1
    except ValueError as error:
        raise click.UsageError(f"-o e@{instant}: {error}") from error


def _formatter(form: str | None, delimiter: str, key_delimiter: str | None, *, as_json: bool, null: bytes) -> Formatter:
    if as_json:
        if form is not None:
            raise click.UsageError("-f and JSON lines exclude each other")
        return json_line
    if form is not None:
        try:
            return parse_format(form, null=null)
        except ValueError as error:
            raise click.UsageError(f"-f: {error}") from error
    end = unescape(delimiter)
    value = parse_format("%s", null=null)
    if key_delimiter is None:
        return lambda place, record: value(place, record) + end
    key, between = parse_format("%k", null=null), unescape(key_delimiter)
    return lambda place, record: key(place, record) + between + value(place, record) + end


def _chunks(pieces: Iterator[bytes]) -> Iterator[bytes]:
    waiting: list[bytes] = []
    size = 0
    for piece in pieces:
        waiting.append(piece)
        size += len(piece)
        if size >= _CHUNK_BYTES:
            yield b"".join(waiting)
            waiting, size = [], 0
    if waiting:
        yield b"".join(waiting)
