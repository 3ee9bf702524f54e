"""``kbr groups list|plan|apply|rollback|export``: flags, one call each, tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from kbr.cli.group_documents import GroupListDocument, GroupRowEntry, GroupsDocument, RollbackDocument, RollbackRowEntry
from kbr.cli.options import (
    Invocation,
    chosen_backup,
    client_options,
    client_sets,
    config_options,
    read_mapping,
    rewind_option,
    storage_option,
    verb,
)
from kbr.cli.render import Block, Table, emit_text, is_terminal
from kbr.cli.tables import listed, number, table, text, warning_lines
from kbr.cli.text import neutralise_lines
from kbr.cli.units import count_text, counted, instant_text

if TYPE_CHECKING:
    from kbr.config import Config

__all__ = ["command", "group_list_blocks", "groups_blocks", "rollback_blocks"]

_Function = TypeVar("_Function", bound=Callable[..., object])


@click.group("groups")
def command() -> None:
    """Show a backup's consumer groups; put a target's."""


def _target_options(function: _Function) -> _Function:
    decorators = (
        click.argument("backup_id", required=False),
        config_options,
        storage_option,
        click.option(
            "-b",
            "--bootstrap-servers",
            "--bootstrap-server",
            "bootstrap_servers",
            metavar="HOST:PORT",
            help="Brokers of the target to start from; several with commas.",
        ),
        client_options,
        click.option(
            "--restore",
            "restore_id",
            metavar="ID",
            help="Which restore, if there were several into this target: its id, or the beginning of it.",
        ),
        click.option(
            "-g",
            "--group",
            "groups",
            multiple=True,
            metavar="GLOB",
            help="Group to take, by name or glob; repeatable. Without it restore.consumer_groups, or all.",
        ),
    )
    for decorate in reversed(decorators):
        function = decorate(function)
    return function


_map_option = click.option(
    "--group-map",
    "group_map",
    multiple=True,
    metavar="SRC=DST",
    help="Commit for group DST what SRC had committed; repeatable.",
)


def _load(
    invocation: Invocation,
    backup_id: str | None,
    config_path: Path | None,
    sets: tuple[str, ...],
    storage: str | None,
    bootstrap_servers: str | None,
    properties: tuple[str, ...],
    command_config: Path | None,
    group_map: tuple[str, ...] = (),
) -> Config:
    return invocation.load(
        config_path,
        sets=[*sets, *client_sets(properties, "target")],
        overrides={
            "backup_id": backup_id,
            "storage.url": storage,
            "target.bootstrap_servers": bootstrap_servers,
            "target.command_config": None if command_config is None else str(command_config),
            "restore.group_mapping": read_mapping(group_map, "--group-map", "SRC=DST"),
        },
        mode="restore",
    )


@command.command("list")
@click.argument("backup_id", required=False)
@config_options
@storage_option
@verb
def list_command(
    *,
    invocation: Invocation,
    backup_id: str | None,
    config_path: Path | None,
    sets: tuple[str, ...],
    storage: str | None,
) -> int:
    """List a backup's consumer groups, and how far behind they were.

    \b
    kbr groups list nightly --storage ./backups
    """
    config = invocation.load(config_path, sets=sets, overrides={"storage.url": storage, "backup_id": backup_id})
    from kbr.app.groups import list_groups

    return invocation.finish(list_groups(config, chosen_backup(config)), group_list_blocks)


def group_list_blocks(document: GroupListDocument) -> list[Block]:
    """What people see of a backup's groups."""
    blocks: list[Block] = [
        f"Groups of backup {document['backup_id']}, as they were at {instant_text(document['captured_at_ms'])}:",
        "",
        table(
            [text("GROUP"), text("TYPE"), text("STATE"), text("TOPICS"), number("PARTITIONS"), number("LAG")],
            [
                [
                    one["group"],
                    one["type"],
                    one["state"],
                    listed(one["topics"]),
                    count_text(len(one["offsets"])),
                    _lag_text([row["lag"] for row in one["offsets"]]),
                ]
                for one in document["groups"]
            ],
        ),
    ]
    if other := document["other_offsets"]:
        blocks.append(f"{counted(other, 'offset')} {'is' if other == 1 else 'are'} of topics that are not in the backup.")
    return [*blocks, *warning_lines([f"{group} could not be read: {why}" for group, why in document["unread"].items()])]


def _lag_text(lags: list[int | None]) -> str:
    known = [one for one in lags if one is not None]
    return "-" if not known else count_text(sum(known)) + ("" if len(known) == len(lags) else "+")


@command.command("plan")
@_target_options
@_map_option
@verb
def plan_command(
    *,
    invocation: Invocation,
    backup_id: str | None,
    config_path: Path | None,
    sets: tuple[str, ...],
    storage: str | None,
    bootstrap_servers: str | None,
    properties: tuple[str, ...],
    command_config: Path | None,
    restore_id: str | None,
    groups: tuple[str, ...],
    group_map: tuple[str, ...],
) -> int:
    """Show where groups would be put in a restore's target, and why.

    Each group is put on the first restored record at or after the one that it wants next. Nothing is changed.

    \b
    kbr groups plan nightly --storage ./backups -b localhost:9092
    """
    config = _load(invocation, backup_id, config_path, sets, storage, bootstrap_servers, properties, command_config, group_map)
    from kbr.app.groups import GroupRun, move_groups

    run = GroupRun(patterns=_patterns(groups, config), group_mapping=config.restore.group_mapping)
    return invocation.finish(move_groups(config, run, restore_id=restore_id), groups_blocks)


@command.command("apply")
@_target_options
@_map_option
@click.option("--execute", is_flag=True, help="Commit the offsets; without it they are only shown.")
@click.option(
    "--rollback-file",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Keep what the groups have now in this new file; without it, it is kept in the backup.",
)
@rewind_option
@verb
def apply_command(
    *,
    invocation: Invocation,
    backup_id: str | None,
    config_path: Path | None,
    sets: tuple[str, ...],
    storage: str | None,
    bootstrap_servers: str | None,
    properties: tuple[str, ...],
    command_config: Path | None,
    restore_id: str | None,
    groups: tuple[str, ...],
    group_map: tuple[str, ...],
    execute: bool,
    rollback_file: Path | None,
    allow_rewind: bool,
) -> int:
    """Put groups where they had read to: with --execute; without it, as plan.

    Refused while one of the groups has members, or where one would move back. What the groups have now is kept first, for rollback. What is committed
    is read back and compared.

    \b
    kbr groups apply nightly --storage ./backups -b localhost:9092 --execute
    """
    config = _load(invocation, backup_id, config_path, sets, storage, bootstrap_servers, properties, command_config, group_map)
    from kbr.app.groups import GroupRun, move_groups

    run = GroupRun(
        patterns=_patterns(groups, config),
        group_mapping=config.restore.group_mapping,
        execute=execute,
        rollback_file=rollback_file,
        allow_rewind=allow_rewind,
    )
    return invocation.finish(move_groups(config, run, restore_id=restore_id), groups_blocks)


def _patterns(groups: tuple[str, ...], config: Config) -> tuple[str, ...]:
    return groups or config.restore.consumer_groups or ("*",)


def groups_blocks(document: GroupsDocument) -> list[Block]:
    """What people see of a plan, or of what came of it."""
    is_plan = document["status"] == "planned"
    did = "would be put" if is_plan else "were put"
    blocks: list[Block] = [
        f"Groups of backup {document['backup_id']}, as they were at {instant_text(document['captured_at_ms'])}, {did} "
        f"in the target of restore {document['restore_id']}:",
        "",
        _moves(document["rows"]),
        "",
    ]
    count = document["totals"]["changes"]
    changes = counted(count, "offset")
    if is_plan:
        blocks.append(f"{changes} would change; kbr groups apply --execute commits them.")
    else:
        blocks.append(f"{changes} {'was' if count == 1 else 'were'} to change: {document['status']}.")
    rewinds = document["totals"]["rewinds"]
    if is_plan and rewinds:
        blocks.append(f"{count_text(rewinds)} of them would move back, which is refused without --allow-rewind.")
    if document["rollback"]:
        blocks.append(f"What the groups had before: {document['rollback']}")
    if document["active"]:
        blocks.append(f"These groups have members, and are refused as long as they do: {', '.join(document['active'])}")
    failures = [f"Failed: {group}: {error}" for group, error in document["failures"].items()]
    return [*blocks, *failures, *warning_lines(document["warnings"])]


def _moves(rows: Sequence[GroupRowEntry | RollbackRowEntry]) -> Table:
    return table(
        [text("GROUP"), text("TOPIC"), number("PARTITION"), number("OLD-OFFSET"), number("NEW-OFFSET"), text("WHY")],
        [
            [
                one["group"],
                one["topic"],
                str(one["partition"]),
                _offset_text(one["old_offset"]),
                _offset_text(one["new_offset"]),
                one["why"],
            ]
            for one in rows
        ],
    )


def _offset_text(offset: int | None) -> str:
    return "-" if offset is None else str(offset)


@command.command("rollback")
@_target_options
@click.option(
    "--file",
    "file",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="The file that apply --rollback-file wrote.",
)
@click.option("--execute", is_flag=True, help="Commit the former offsets; without it they are only shown.")
@verb
def rollback_command(
    *,
    invocation: Invocation,
    backup_id: str | None,
    config_path: Path | None,
    sets: tuple[str, ...],
    storage: str | None,
    bootstrap_servers: str | None,
    properties: tuple[str, ...],
    command_config: Path | None,
    restore_id: str | None,
    groups: tuple[str, ...],
    file: Path | None,
    execute: bool,
) -> int:
    """Give groups back what they had before the last apply: with --execute; without it, show it.

    A group that did not exist before is deleted. Of one that did, an offset that it did not have can't be taken away
    alone: it stays, and is told (exit code 3).

    \b
    kbr groups rollback nightly --storage ./backups -b localhost:9092 --execute
    """
    config = _load(invocation, backup_id, config_path, sets, storage, bootstrap_servers, properties, command_config)
    from kbr.app.groups import roll_groups_back

    report = roll_groups_back(config, restore_id=restore_id, file=file, patterns=_patterns(groups, config), execute=execute)
    return invocation.finish(report, rollback_blocks)


def rollback_blocks(document: RollbackDocument) -> list[Block]:
    """What people see of a way back."""
    is_plan = document["status"] == "planned"
    blocks: list[Block] = [
        f"{'Would give' if is_plan else 'Gave'} groups back what they had at {instant_text(document['created_at_ms'])} "
        f"({document['rollback']}):",
        "",
        _moves(document["rows"]),
        "",
        "Nothing was changed; --execute commits it." if is_plan else f"Done: {document['status']}.",
    ]
    if document["active"]:
        blocks.append(f"These groups have members, and are refused as long as they do: {', '.join(document['active'])}")
    return [*blocks, *(f"Failed: {group}: {error}" for group, error in document["failures"].items())]


@command.command("export")
@_target_options
@_map_option
@click.option(
    "--format",
    "form",
    type=click.Choice(["kafka", "rpk"]),
    default="kafka",
    show_default=True,
    help="For kafka-consumer-groups --reset-offsets --from-file, or for rpk group seek --to-file.",
)
@verb
def export_command(
    *,
    invocation: Invocation,
    backup_id: str | None,
    config_path: Path | None,
    sets: tuple[str, ...],
    storage: str | None,
    bootstrap_servers: str | None,
    properties: tuple[str, ...],
    command_config: Path | None,
    restore_id: str | None,
    groups: tuple[str, ...],
    group_map: tuple[str, ...],
    form: str,
) -> int:
    """Print where groups would be put, for Kafka's own tool or for rpk to do it.

    Kafka's CSV has the columns group, topic, partition and offset, and no heading. rpk's file is of one group.

    \b
    kbr groups export nightly --storage ./backups -b localhost:9092 > offsets.csv
    kafka-consumer-groups.sh --bootstrap-server localhost:9092 --reset-offsets --all-groups --from-file offsets.csv --execute
    """
    config = _load(invocation, backup_id, config_path, sets, storage, bootstrap_servers, properties, command_config, group_map)
    from kbr.app.group_files import kafka_csv, rpk_file
    from kbr.app.groups import GroupRun, move_groups

    run = GroupRun(patterns=_patterns(groups, config), group_mapping=config.restore.group_mapping)
    report = move_groups(config, run, restore_id=restore_id)
    content = kafka_csv(report.plan.rows) if form == "kafka" else rpk_file(report.plan.rows)
    if invocation.output == "table":
        # a file gets names as they are; on a terminal, one could move the cursor
        emit_text(neutralise_lines(content) if is_terminal() else content)
        return report.exit_code
    invocation.emit({**report.to_document(), "file": content, "exit_code": report.exit_code}, lambda _: [])
    return report.exit_code
