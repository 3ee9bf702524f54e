"""``kbr restore``: flags, one call, one table."""

from __future__ import annotations

import re
from pathlib import Path

import click

from kbr.cli.documents import RestoreDocument
from kbr.cli.live import live
from kbr.cli.options import (
    Invocation,
    client_sets,
    config_options,
    filter_options,
    group_options,
    groups_of,
    rates_of,
    read_mapping,
    rewind_option,
    split_commas,
    storage_option,
    storage_words,
    tell_start,
    verb,
    window_start,
)
from kbr.cli.placement_options import read_choices, read_configs, read_counts
from kbr.cli.render import Block
from kbr.cli.tables import listed, number, table, text, warning_lines
from kbr.cli.units import bytes_text, count_text, counted, duration_text, mean_rate_text
from kbr.cli.window_documents import window_lines

__all__ = ["command", "restore_blocks"]

_NUMBER = re.compile(r"[0-9]+")
_OFFSETS = re.compile(r"[0-9]+|[0-9]+-[0-9]*|-[0-9]+")


@click.command("restore")
@config_options
@filter_options
@storage_option
@click.option("--from-timestamp", metavar="T", help="Records from this time on: epoch ms, or ISO-8601 with a zone.")
@click.option("--to-timestamp", metavar="T", help="Records up to this time, itself included.")
@click.option("--last", metavar="DURATION", help="Records of the last 24h, 90m, 7d, before now.")
@click.option(
    "--offsets",
    "offset_windows",
    multiple=True,
    metavar="TOPIC:0=FROM-TO",
    help="Records of these offsets only of partition 0 of TOPIC, both included; FROM- or -TO; repeatable.",
)
@click.option(
    "--topic-map",
    "topic_map",
    multiple=True,
    metavar="SRC=DST",
    help="Restore topic SRC as DST; repeatable. 'a-*=b-*' is for all that fit.",
)
@click.option("--topic-prefix", metavar="TEXT", help="Put this before the names of topics that are not mapped.")
@click.option("--topic-suffix", metavar="TEXT", help="Put this behind the names of topics that are not mapped.")
@click.option(
    "--partition-map",
    "partition_map",
    multiple=True,
    metavar="TOPIC:0=3",
    help="Restore partition 0 of TOPIC to partition 3; repeatable.",
)
@click.option(
    "--source-partitions",
    "source_partitions",
    multiple=True,
    metavar="TOPIC:0,2-5",
    help="Of TOPIC (name or glob) restore these partitions only; repeatable.",
)
@click.option(
    "--partitioner",
    type=click.Choice(["original", "murmur2", "consistent", "round-robin"]),
    help="How a record's partition is chosen: as it was, by key as Java or librdkafka do, or in turn.",
)
@click.option(
    "--target-partitions",
    "target_partitions",
    multiple=True,
    metavar="N|TOPIC=N",
    help="Partitions of the target topics, or of TOPIC (name or glob) of the backup; repeatable.",
)
@click.option("--merge", is_flag=True, default=None, help="Let several sources go to one target partition, in turn.")
@click.option(
    "--existing-topics",
    type=click.Choice(["keep", "check", "apply", "fail"]),
    help="Target topics that exist: keep, check and refuse, change, or refuse.",
)
@click.option(
    "--topic-config",
    "topic_configs",
    multiple=True,
    metavar="NAME=VALUE",
    help="Config of topics that are created, over the backup's; repeatable.",
)
@click.option("--replication-factor", type=int, metavar="N", help="Replication factor of topics that are created.")
@group_options(
    "When all records are there, put the backup's consumer groups where they had read to.",
    "The same for this group, by name or glob; repeatable.",
)
@click.option(
    "--group-map",
    "group_map",
    multiple=True,
    metavar="SRC=DST",
    help="Commit for group DST what SRC had committed; repeatable.",
)
@click.option(
    "--rollback-file",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Keep what the groups have committed before in this new file, instead of in the backup.",
)
@rewind_option
@click.option("--append", is_flag=True, default=None, help="Write into topics that hold other records already.")
@click.option(
    "--allow-incomplete",
    is_flag=True,
    default=None,
    help="Restore what there is, although some segments are missing or archived.",
)
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
    properties: tuple[str, ...],
    command_config: Path | None,
    dry_run: bool,
    stats: float,
    from_timestamp: str | None,
    to_timestamp: str | None,
    last: str | None,
    offset_windows: tuple[str, ...],
    topic_map: tuple[str, ...],
    partition_map: tuple[str, ...],
    topic_prefix: str | None,
    topic_suffix: str | None,
    source_partitions: tuple[str, ...],
    partitioner: str | None,
    target_partitions: tuple[str, ...],
    merge: bool | None,
    existing_topics: str | None,
    topic_configs: tuple[str, ...],
    replication_factor: int | None,
    append: bool | None,
    allow_incomplete: bool | None,
    all_groups: bool,
    groups: tuple[str, ...],
    group_map: tuple[str, ...],
    rollback_file: Path | None,
    allow_rewind: bool,
) -> int:
    """Restore topics into a Kafka cluster.

    Makes missing topics as they were and puts every record back to its partition, in order, with its timestamp. Topics
    are named as they are in the backup. Both ends of a time window are included.

    One that was interrupted goes on when it is run again with the same flags: what is in the target is compared with the
    backup, and only the rest is sent.

    \b
    kbr restore -c kbr.yaml --dry-run
    kbr restore -b localhost:9092 --backup-id first --storage ./backups --topic-map orders=orders-restored
    """
    if not dry_run:
        from kbr.app.prestart import prestart_workers

        prestart_workers("restore", config_path=config_path, settings=storage_words(storage, sets))
    config = invocation.load(
        config_path,
        sets=[*sets, *client_sets(properties, "target")],
        overrides={
            "backup_id": backup_id,
            "target.bootstrap_servers": bootstrap_servers,
            "target.command_config": None if command_config is None else str(command_config),
            "target.topics.include": split_commas(topics),
            "target.topics.exclude": split_commas(excluded),
            "storage.url": storage,
            "restore.workers": workers,
            **{f"restore.{name}": value for name, value in rates_of(rate_limits).items()},
            "restore.time_window_start": window_start(from_timestamp, last),
            "restore.time_window_end": to_timestamp,
            "restore.offset_windows": _by_partition(offset_windows, "--offsets", "TOPIC:0=FROM-TO", _OFFSETS),
            "restore.topic_mapping": read_mapping(topic_map, "--topic-map", "SRC=DST"),
            "restore.partition_mapping": _by_partition(partition_map, "--partition-map", "TOPIC:0=3", _NUMBER),
            "restore.topic_prefix": topic_prefix,
            "restore.topic_suffix": topic_suffix,
            "restore.source_partitions": read_choices(source_partitions),
            "restore.partitioner": partitioner,
            "restore.target_partitions": read_counts(target_partitions),
            "restore.merge": merge,
            "restore.existing_topics": existing_topics,
            "restore.topic_configs": read_configs(topic_configs),
            "restore.replication_factor": replication_factor,
            "restore.append": append,
            "restore.allow_incomplete": allow_incomplete,
            "restore.consumer_groups": groups_of(all_groups, groups),
            "restore.group_mapping": read_mapping(group_map, "--group-map", "SRC=DST"),
        },
        mode="restore",
    )
    tell_start(last, config.restore.time_window_start)
    if not config.restore.consumer_groups:
        for flag, is_given in (("--group-map", group_map), ("--rollback-file", rollback_file), ("--allow-rewind", allow_rewind)):
            if is_given:
                raise click.UsageError(f"{flag} says nothing without --groups or --group")
    from kbr.app.restore_run import run_restore

    with live(invocation, stats_interval_s=stats) as (progress, stop):
        report = run_restore(
            config,
            dry_run=dry_run,
            progress=progress,
            stop=stop,
            rollback_file=rollback_file,
            allow_rewind=allow_rewind,
        )
    return invocation.finish(report, restore_blocks)


def _by_partition(
    values: tuple[str, ...], flag: str, form: str, right: re.Pattern[str]
) -> dict[str, dict[str, str]] | None:
    found: dict[str, dict[str, str]] = {}
    for left, value in (read_mapping(values, flag, form) or {}).items():
        topic, separator, partition = left.rpartition(":")
        if not separator or not topic or not _NUMBER.fullmatch(partition) or not right.fullmatch(value):
            raise click.UsageError(f"{flag} takes {form}, not {left + '=' + value!r}")
        found.setdefault(topic, {})[partition] = value
    return found or None


def restore_blocks(document: RestoreDocument) -> list[Block]:
    """What people see of a restore run, or of its plan."""
    blocks = _plan_blocks(document) if document["dry_run"] else _result_blocks(document)
    failures = [f"Failed: {partition}: {error}" for partition, error in document["failures"].items()]
    groups = document["groups"]
    if groups is not None:
        from kbr.cli.groups_cmd import groups_blocks

        return [*blocks, *failures, *warning_lines(document["warnings"]), "", *groups_blocks(groups)]
    return [*blocks, *failures, *warning_lines(document["warnings"])]


_AT_LEAST = "Of partitions that failed, at least so many records are in the target; the same command finds out how many."


def _plan_blocks(document: RestoreDocument) -> list[Block]:
    plan = document["plan"]
    bound = "" if plan["records_exact"] else "at most "
    blocks: list[Block] = [
        f"Would restore backup {document['backup_id']} at {document['storage']}:",
        *_window_lines(document),
        "",
        table(
            [text("TOPIC"), text("TARGET"), number("PARTITIONS"), number("SEGMENTS"), number("STORED")],
            [
                [
                    one["topic"],
                    one["target"],
                    count_text(one["partitions"]),
                    count_text(one["segments"]),
                    bytes_text(one["stored_bytes"]),
                ]
                for one in document["topics"]
            ],
            [
                "total",
                "",
                count_text(document["totals"]["partitions"]),
                count_text(plan["segments"]),
                bytes_text(sum(one["stored_bytes"] for one in document["topics"])),
            ],
        ),
        "",
        f"Reads {counted(plan['segments'], 'segment')}, {counted(plan['blocks'], 'block')} "
        f"({bytes_text(plan['stored_bytes'])} stored); restores {bound}{counted(plan['records'], 'record')} "
        f"({bytes_text(plan['raw_bytes'])} encoded).",
        *_already_there(document),
    ]
    if plan["topics_to_create"]:
        blocks += [
            "",
            "Topics to create:",
            table(
                [text("TOPIC"), number("PARTITIONS"), number("REPLICAS"), text("CONFIGS")],
                [
                    [
                        one["topic"],
                        count_text(one["partitions"]),
                        count_text(one["replication_factor"]),
                        listed(f"{name}={value}" for name, value in one["configs"].items()),
                    ]
                    for one in plan["topics_to_create"]
                ],
            ),
        ]
    return blocks


def _result_blocks(document: RestoreDocument) -> list[Block]:
    totals, seconds = document["totals"], document["duration_s"]
    return [
        f"Restore of backup {document['backup_id']} at {document['storage']}: {document['status']}",
        *_window_lines(document),
        "",
        table(
            [text("TOPIC"), text("TARGET"), number("PARTITIONS"), number("RECORDS"), number("RECORD BYTES"), text("PROBLEMS")],
            [
                [
                    one["topic"],
                    one["target"],
                    count_text(one["partitions"]),
                    count_text(one["records"]),
                    bytes_text(one["bytes"]),
                    f"{len(one['failed'])} failed" if one["failed"] else "-",
                ]
                for one in document["topics"]
            ],
            [
                "total",
                "",
                count_text(totals["partitions"]),
                count_text(totals["records"]),
                bytes_text(totals["bytes"]),
                "",
            ],
        ),
        "",
        f"Took {duration_text(seconds)} ({mean_rate_text(totals['bytes'], seconds)} of record bytes).",
        *([] if totals["records_exact"] else [_AT_LEAST]),
        *_already_there(document),
    ]


def _already_there(document: RestoreDocument) -> list[Block]:
    count, gone = document["totals"]["already_there"], document["totals"]["gone"]
    lines: list[Block] = []
    if count:
        be, they = ("was", "it is") if count == 1 else ("were", "they are")
        lines.append(f"{counted(count, 'record')} {be} in the target already; {they} the backup's.")
    if gone:
        be, are = ("was", "is") if gone == 1 else ("were", "are")
        lines.append(f"{counted(gone, 'record')} that {be} restored {are} no longer in the target.")
    return lines


def _window_lines(document: RestoreDocument) -> list[str]:
    plan = document["plan"]
    lines = window_lines(plan)
    for one in plan["offset_windows"]:
        last = "on" if one["end_offset"] is None else f"to {one['end_offset']}"
        lines.append(f"Of {one['topic']}[{one['partition']}] offsets {one['start_offset']} {last}")
    return lines
