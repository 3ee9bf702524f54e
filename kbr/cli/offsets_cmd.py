"""``kbr offsets show|export``: flags, one call, tables; an export is written while it is read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from kbr.cli.documents import ListedRestore, OffsetsDocument, OffsetsMapping
from kbr.cli.options import Invocation, chosen_backup, config_options, exporting_verb, storage_option, verb
from kbr.cli.render import SCHEMA_VERSION, Block, emit_blocks, emit_text
from kbr.cli.tables import LEFT_UNDONE, listed, number, table, text
from kbr.cli.units import count_text, counted, instant_text

if TYPE_CHECKING:
    from kbr.repository.offset_maps import OffsetRangeMap

__all__ = ["command", "offsets_blocks", "restores_blocks"]

_Function = TypeVar("_Function", bound=Callable[..., Any])
_COLUMNS = (
    "source_topic",
    "source_partition",
    "source_start",
    "target_topic",
    "target_partition",
    "target_start",
    "count",
)
#: Ranges that are written at a time.
_CHUNK = 5000


@click.group("offsets")
def command() -> None:
    """Show or export which offset became which in a restore."""


def _map_options(function: _Function) -> _Function:
    """The backup, the restore, and the part of the mapping."""
    decorators = (
        click.argument("backup_id", required=False),
        click.option("--restore", metavar="ID", help="Which restore: its id, or the beginning of it."),
        click.option("-t", "--topic", metavar="TOPIC", help="This topic of the source only."),
        click.option(
            "-p", "--partition", type=click.IntRange(min=0), metavar="N", help="This partition of the topic only."
        ),
    )
    for decorate in reversed(decorators):
        function = decorate(function)
    return function


@command.command("show")
@_map_options
@click.option("--offset", type=click.IntRange(min=0), metavar="N", help="Look up this offset of the partition.")
@config_options
@storage_option
@verb
def show(
    *,
    invocation: Invocation,
    backup_id: str | None,
    restore: str | None,
    topic: str | None,
    partition: int | None,
    offset: int | None,
    config_path: Path | None,
    sets: tuple[str, ...],
    storage: str | None,
) -> int:
    """Show what a restore's offset mapping says.

    Sums by partition; with -t and -p the first ranges of that partition; with --offset, too, where that record is in the
    target, and where a consumer would go on. Where a backup has several restores, and none is named, they are listed.

    \b
    kbr offsets show --storage s3://backups/kafka nightly-1
    kbr offsets show --storage s3://backups/kafka nightly-1 -t orders -p 0 --offset 1234
    """
    config = invocation.load(config_path, sets=sets, overrides={"storage.url": storage, "backup_id": backup_id})
    from kbr.app.offsets import show_offsets

    invocation.emit(
        show_offsets(
            config, chosen_backup(config), restore=restore, topic=topic, partition=partition, offset=offset
        ),
        offsets_blocks,
    )
    return 0


@command.command("export")
@_map_options
@config_options
@storage_option
@exporting_verb
def export(
    *,
    invocation: Invocation,
    backup_id: str | None,
    restore: str | None,
    topic: str | None,
    partition: int | None,
    config_path: Path | None,
    sets: tuple[str, ...],
    storage: str | None,
) -> int:
    """Write all ranges of a restore's offset mapping.

    The record at source_start + n is at target_start + n, for n below count; a record that is in no range was not
    restored. The mapping is a Parquet file in the backup's folder, too: any tool that reads those may be used instead.

    \b
    kbr offsets export --storage s3://backups/kafka nightly-1 > offsets.csv
    """
    config = invocation.load(config_path, sets=sets, overrides={"storage.url": storage, "backup_id": backup_id})
    from kbr.app.offsets import offset_ranges

    backup = chosen_backup(config)
    with offset_ranges(config, backup, restore=restore, topic=topic, partition=partition) as (restore_id, ranges):
        if invocation.output == "json":
            _write_json(backup, restore_id, ranges)
        elif invocation.output == "csv":
            _write_csv(ranges)
        else:
            _write_tables(ranges)
    return 0


def _chunks(ranges: Iterator[OffsetRangeMap]) -> Iterator[list[tuple[str, int, int, str, int, int, int]]]:
    rows = ((*one.source, one.source_start, *one.target, one.target_start, one.count) for one in ranges)
    while chunk := list(islice(rows, _CHUNK)):
        yield chunk


def _write_csv(ranges: Iterator[OffsetRangeMap]) -> None:
    """Nothing in it has to be quoted: topic names are letters, digits, '.', '_' and '-', checked when they are read.

    So no cell can be a formula that does anything, either.
    """
    goes_on = emit_text(",".join(_COLUMNS) + "\n")
    for chunk in _chunks(ranges) if goes_on else ():
        if not emit_text("".join(",".join(map(str, row)) + "\n" for row in chunk)):
            return


def _write_json(backup_id: str, restore_id: str, ranges: Iterator[OffsetRangeMap]) -> None:
    head = {"schema_version": SCHEMA_VERSION, "backup_id": backup_id, "restore_id": restore_id}
    goes_on = emit_text(json.dumps(head, indent=2).removesuffix("\n}") + ',\n  "ranges": [')
    separator = "\n"
    for chunk in _chunks(ranges) if goes_on else ():
        lines = [f"    {json.dumps(dict(zip(_COLUMNS, row, strict=True)))}" for row in chunk]
        if not emit_text(separator + ",\n".join(lines)):
            return
        separator = ",\n"
    emit_text("\n  ]\n}\n")


def _write_tables(ranges: Iterator[OffsetRangeMap]) -> None:
    titles = [name.upper().replace("_", " ") for name in _COLUMNS]
    columns = [text(title) if title.endswith("TOPIC") else number(title) for title in titles]
    for chunk in _chunks(ranges):
        if not emit_blocks([table(columns, [list(map(str, row)) for row in chunk])]):
            return


def offsets_blocks(document: OffsetsDocument) -> list[Block]:
    """What people see of a mapping."""
    mapping = document["mapping"]
    if mapping is None:
        return [
            f"Backup {document['backup_id']} has several restores; name one with --restore.",
            "",
            *restores_blocks(document["restores"]),
        ]
    blocks: list[Block] = [
        f"Restore {mapping['restore_id']} of backup {document['backup_id']} to cluster "
        f"{mapping['cluster_id'] or 'unknown'}, {instant_text(mapping['created_at_ms'])}:",
        f"{counted(mapping['records'], 'record')} in {counted(mapping['ranges'], 'range')}.",
    ]
    if mapping["lookup"] is not None:
        return [*blocks, "", *_lookup_blocks(mapping)]
    columns = [text("SOURCE"), text("TARGET"), number("RANGES"), number("RECORDS"), text("SOURCE OFFSETS")]
    rows = [
        [
            f"{one['source_topic']}[{one['source_partition']}]",
            f"{one['target_topic']}[{one['target_partition']}]",
            count_text(one["ranges"]),
            count_text(one["records"]),
            f"{one['source_start_offset']} to {one['source_end_offset_exclusive'] - 1}",
            f"{one['target_start_offset']} to {one['target_end_offset_exclusive'] - 1}",
        ]
        for one in mapping["partitions"]
    ]
    blocks += ["", table([*columns, text("TARGET OFFSETS")], rows)]
    return [*blocks, *_range_blocks(mapping)]


def _lookup_blocks(mapping: OffsetsMapping) -> list[Block]:
    lookup = mapping["lookup"]
    if lookup is None:
        return []
    target = lookup["target"]
    place = "not restored" if target is None else f"{target['topic']}[{target['partition']}] offset {target['offset']}"
    goes_on = listed(f"{one['topic']}[{one['partition']}] offset {one['offset']}" for one in lookup["first_at_or_after"])
    return [
        f"Source offset {lookup['source_offset']}: {place}.",
        f"A consumer that would go on there goes on at: {goes_on}.",
    ]


def _range_blocks(mapping: OffsetsMapping) -> list[Block]:
    shown = mapping["shown"]
    if not shown:
        return []
    columns = [number("SOURCE START"), text("TARGET"), number("TARGET START"), number("COUNT")]
    rows = [
        [
            str(one["source_start"]),
            f"{one['target_topic']}[{one['target_partition']}]",
            str(one["target_start"]),
            count_text(one["count"]),
        ]
        for one in shown
    ]
    left = sum(one["ranges"] for one in mapping["partitions"]) - len(shown)
    more = [f"And {count_text(left)} more: kbr offsets export."] if left > 0 else []
    return ["", table(columns, rows), *more]


def restores_blocks(restores: list[ListedRestore]) -> list[Block]:
    """Restores of a backup as a table."""
    columns = [text("RESTORE"), text("STATUS"), text("BEGUN"), text("CLUSTER"), text("OFFSET MAPPING"), text("TOPICS")]
    rows = [
        [
            one["restore_id"],
            one["status"],
            instant_text(one["created_at_ms"]),
            one["cluster_id"] or "-",
            "yes" if one["has_offset_map"] else "no",
            listed(one["target_topics"][:5]) + (", ..." if len(one["target_topics"]) > 5 else ""),
        ]
        for one in restores
    ]
    errors = [f"{one['restore_id']}: {one['error']}" for one in restores if one["error"]]
    left = [f"{one['restore_id']}: {LEFT_UNDONE}" for one in restores if one["lock_held"] is False]
    return [table(columns, rows), *errors, *left]
