"""``kbr describe``: flags, one call, tables."""

from __future__ import annotations

from pathlib import Path

import click

from kbr.cli.documents import DescribeDocument, DescribedTotals
from kbr.cli.offsets_cmd import restores_blocks
from kbr.cli.options import Invocation, chosen_backup, config_options, storage_option, verb
from kbr.cli.render import Block
from kbr.cli.tables import LEFT_RUNNING, listed, number, table, text
from kbr.cli.units import bytes_text, count_text, counted, instant_text, local_instant_text

__all__ = ["command", "describe_blocks"]


@click.command("describe")
@click.argument("backup_id", required=False)
@config_options
@storage_option
@verb
def command(
    *,
    invocation: Invocation,
    backup_id: str | None,
    config_path: Path | None,
    sets: tuple[str, ...],
    storage: str | None,
) -> int:
    """Show what a backup holds.

    Topics, partitions, sizes, times, what is missing, and the restores that were made of it. Without BACKUP_ID it is the configuration's backup_id.

    \b
    kbr describe --storage s3://backups/kafka nightly-1
    """
    config = invocation.load(config_path, sets=sets, overrides={"storage.url": storage, "backup_id": backup_id})
    from kbr.app.inspect import describe_backup

    invocation.emit(describe_backup(config, chosen_backup(config)).to_document(), describe_blocks)
    return 0


def describe_blocks(document: DescribeDocument) -> list[Block]:
    """What people see of one backup."""
    source, totals = document["source"], document["totals"]
    facts = [
        ("Backup", document["backup_id"]),
        ("Status", LEFT_RUNNING if document["lock_held"] is False else document["status"]),
        ("Created", instant_text(document["created_at_ms"])),
        ("Finished", instant_text(document["finished_at_ms"])),
        (
            "Source",
            f"{source['cluster_id'] or 'unknown cluster'} ({listed(source['brokers'])}), {source['isolation_level']}",
        ),
        *(
            (name, f"{instant_text(end)} ({local_instant_text(end)} local time)")
            for name, end in (("From", source["time_window_start_ms"]), ("To", source["time_window_end_ms"]))
            if end is not None
        ),
        ("Stored as", _stored_as(document)),
        *([("Encrypted", "yes")] if document["encrypted"] else []),
    ]
    width = max(len(name) for name, _ in facts) + 2
    blocks: list[Block] = [f"{name + ':':<{width}}{value}" for name, value in facts]
    columns = [text("TOPIC"), number("PARTITIONS"), number("RECORDS"), number("ENCODED"), number("STORED")]
    rest = [number("SEGMENTS"), text("FIRST RECORD"), text("LAST RECORD"), text("PROBLEMS")]
    rows = [_row(one["topic"], one["totals"]) for one in document["topics"]]
    blocks += ["", table([*columns, *rest], rows, _row("total", totals))]
    restores = document["restores"]
    listed_restores = ["", *restores_blocks(restores)] if restores else []
    notes = ["", *(f"Note: {note}" for note in document["notes"])] if document["notes"] else []
    distrusted = ["", f"Warning: only shown, and refused by what relies on it: {document['distrusted']}"] if document["distrusted"] else []
    return [*blocks, *_problem_lines(document), *listed_restores, *notes, *distrusted]


def _stored_as(document: DescribeDocument) -> str:
    if document["made_by"] != "kbr":
        return f"{document['compression']}, by {document['made_by']}"
    return f"{document['compression']}, format {document['format_version']}, kbr {document['kbr_version']}"


def _row(name: str, totals: DescribedTotals) -> list[str]:
    problems = [f"{totals['failed_partitions']} failed"] if totals["failed_partitions"] else []
    problems += [counted(totals["gaps"], "gap")] if totals["gaps"] else []
    return [
        name,
        count_text(totals["partitions"]),
        count_text(totals["records"]),
        bytes_text(totals["raw_bytes"]),
        bytes_text(totals["stored_bytes"]),
        count_text(totals["segments"]),
        instant_text(totals["min_timestamp_ms"]),
        instant_text(totals["max_timestamp_ms"]),
        listed(problems),
    ]


def _problem_lines(document: DescribeDocument) -> list[str]:
    lines = []
    for failure in document["failures"]:
        place = f"{failure['topic']}[{failure['partition']}]"
        reason = f": {failure['error']}" if failure["error"] else ""
        reached = f"reached offset {failure['next_offset']} of {failure['end_offset_exclusive']}"
        lines.append(f"{failure['status'].capitalize()}: {place}: {reached}{reason}")
    for topic in document["topics"]:
        for partition in topic["partitions"]:
            for gap in partition["gaps"]:
                last = gap["end_offset_exclusive"] - 1
                place = f"{topic['topic']}[{partition['partition']}]"
                lines.append(f"Gap: {place}: offsets {gap['start_offset']} to {last} ({gap['reason']})")
    return ["", *lines] if lines else []
