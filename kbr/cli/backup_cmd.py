"""``kbr backup``: flags, one call, one table."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from kbr.cli.documents import BackupDocument, BackupTopic, BackupTotals
from kbr.cli.live import live
from kbr.cli.options import (
    Invocation,
    client_sets,
    config_options,
    filter_options,
    group_options,
    groups_of,
    rates_of,
    split_commas,
    storage_option,
    storage_words,
    tell_start,
    verb,
    window_start,
)
from kbr.cli.render import Block
from kbr.cli.tables import listed, number, table, text, warning_lines
from kbr.cli.units import bytes_text, count_text, counted, duration_text, mean_rate_text
from kbr.cli.window_documents import window_lines

__all__ = ["backup_blocks", "command"]


@click.command("backup")
@config_options
@filter_options
@storage_option
@click.option("--from-timestamp", metavar="T", help="Records from this time on: epoch ms, or ISO-8601 with a zone.")
@click.option("--to-timestamp", metavar="T", help="Records up to this time, itself included.")
@click.option("--last", metavar="DURATION", help="Records of the last 24h, 90m, 7d, before now.")
@click.option(
    "--no-extra-verify", "extra_verify", flag_value=False, default=None, help="Don't decode blocks again before they are stored."
)
@click.option("--continuous", is_flag=True, default=None, help="Go on until stopped (SIGTERM, Ctrl-C).")
@group_options("Keep what all consumer groups have committed.", "Keep it of this group, by name or glob; repeatable.")
@verb
def command(
    *,
    invocation: Invocation,
    config_path: Path | None,
    sets: tuple[str, ...],
    backup_id: str | None,
    bootstrap_servers: str | None,
    topics: tuple[str, ...],
    excluded: tuple[str, ...],
    storage: str | None,
    rate_limits: tuple[str, ...],
    workers: int | None,
    from_timestamp: str | None,
    to_timestamp: str | None,
    last: str | None,
    extra_verify: bool | None,
    continuous: bool | None,
    all_groups: bool,
    groups: tuple[str, ...],
    properties: tuple[str, ...],
    command_config: Path | None,
    dry_run: bool,
    stats: float,
) -> int:
    """Back up topics of a Kafka cluster.

    Takes every record that is committed when the command starts, and ends; with --continuous it goes on until it is
    stopped. A time window takes records by their own timestamps, also those that are out of order. The same backup_id again goes on with that backup. What a flag does not say comes from the KBR_
    environment variables, then from the file.

    \b
    kbr backup -c kbr.yaml
    kbr backup -b localhost:9092 --backup-id first -t 'orders-*' --storage ./backups
    """
    if not dry_run:
        from kbr.app.prestart import prestart_workers

        prestart_workers("backup", config_path=config_path, settings=storage_words(storage, sets))
    load = partial(
        invocation.load,
        config_path,
        sets=[*sets, *client_sets(properties, "source")],
        overrides={
            "backup_id": backup_id,
            "source.bootstrap_servers": bootstrap_servers,
            "source.command_config": None if command_config is None else str(command_config),
            "source.topics.include": split_commas(topics),
            "source.topics.exclude": split_commas(excluded),
            "storage.url": storage,
            "backup.workers": workers,
            "backup.continuous": continuous,
            "backup.extra_verify": extra_verify,
            "backup.time_window_start": window_start(from_timestamp, last),
            "backup.time_window_end": to_timestamp,
            "backup.consumer_groups": groups_of(all_groups, groups),
            **{f"backup.{name}": value for name, value in rates_of(rate_limits).items()},
        },
        mode="backup",
    )
    config = load()
    tell_start(last, config.backup.time_window_start)
    from kbr.app.backup_run import run_backup

    with live(invocation, stats_interval_s=stats) as (progress, stop):
        report = run_backup(config, dry_run=dry_run, progress=progress, stop=stop, load=load)
    return invocation.finish(report, backup_blocks)


def backup_blocks(document: BackupDocument) -> list[Block]:
    """What people see of a backup run."""
    totals = document["totals"]
    blocks: list[Block] = []
    if document["dry_run"]:
        place = f"{document['backup_id']} at {document['storage']}"
        blocks.append(f"Would go on with backup {place}:" if document["resumed"] else f"Would back up to {place}:")
        blocks += [*window_lines(document), ""]
        blocks.append(
            table(
                [text("TOPIC"), number("PARTITIONS"), number("OFFSETS"), number("LEFT TO READ"), text("PROBLEMS")],
                [[one["topic"], *_offsets(one), _problems(one)] for one in document["topics"]],
                ["total", *_offsets(totals), ""],
            )
        )
    else:
        blocks.append(f"Backup {document['backup_id']} at {document['storage']}: {document['status']}")
        blocks += [*window_lines(document), ""]
        columns = [text("TOPIC"), number("PARTITIONS"), number("RECORDS"), number("ENCODED"), number("STORED")]
        blocks.append(
            table(
                [*columns, number("SEGMENTS"), text("PROBLEMS")],
                [[*_row(one), count_text(one["segments"]), _problems(one)] for one in document["topics"]],
                [
                    "total",
                    count_text(totals["partitions"]),
                    count_text(totals["records"]),
                    bytes_text(totals["raw_bytes"]),
                    bytes_text(totals["stored_bytes"]),
                    count_text(totals["segments"]),
                    "",
                ],
            )
        )
        blocks.append("")
        seconds = document["duration_s"]
        added = document["added"]
        if document["resumed"]:
            what = "Nothing was new."
            if added["segments"]:
                what = f"New: {counted(added['records'], 'record')} ({bytes_text(added['raw_bytes'])} encoded)."
            blocks.append(f"Went on with what was there. {what}")
        blocks.append(f"Took {duration_text(seconds)} ({mean_rate_text(added['raw_bytes'], seconds)} encoded).")
    groups = document["groups"]
    if groups is not None:
        blocks.append(f"Kept {counted(groups['offsets'], 'offset')} of {counted(groups['groups'], 'consumer group')}.")
    return [*blocks, *warning_lines(document["warnings"])]


def _offsets(some: BackupTopic | BackupTotals) -> list[str]:
    return [count_text(some["partitions"]), count_text(some["offsets"]), count_text(some["offsets_left"])]


def _row(topic: BackupTopic) -> list[str]:
    return [
        topic["topic"],
        count_text(topic["partitions"]),
        count_text(topic["records"]),
        bytes_text(topic["raw_bytes"]),
        bytes_text(topic["stored_bytes"]),
    ]


def _problems(topic: BackupTopic) -> str:
    parts = []
    if topic["failed"]:
        first = topic["failed"][0]
        parts.append(f"{len(topic['failed'])} failed ({first['partition']}: {first['error']})")
    if topic["gaps"]:
        parts.append(counted(len(topic["gaps"]), "gap"))
    return listed(parts)
