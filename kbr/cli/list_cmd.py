"""``kbr list``: flags, one call, one table."""

from __future__ import annotations

from pathlib import Path

import click

from kbr.cli.documents import ListDocument
from kbr.cli.options import Invocation, config_options, storage_option, verb
from kbr.cli.render import Block
from kbr.cli.tables import LEFT_RUNNING, number, table, text
from kbr.cli.units import bytes_text, count_text, instant_text

__all__ = ["command", "list_blocks"]


@click.command("list")
@config_options
@storage_option
@verb
def command(*, invocation: Invocation, config_path: Path | None, sets: tuple[str, ...], storage: str | None) -> int:
    """List the backups at a place.

    \b
    kbr list --storage s3://backups/kafka
    kbr list -c kbr.yaml -o json
    """
    config = invocation.load(config_path, sets=sets, overrides={"storage.url": storage})
    from kbr.app.inspect import list_backups

    invocation.emit(list_backups(config).to_document(), list_blocks)
    return 0


def list_blocks(document: ListDocument) -> list[Block]:
    """What people see of a store."""
    if not document["backups"]:
        return ["No backups there."]
    columns = [text("BACKUP"), text("STATUS"), text("CREATED"), number("TOPICS"), number("PARTITIONS")]
    rows = [
        [
            one["backup_id"],
            one["status"],
            instant_text(one["created_at_ms"]),
            _count(one["topics"]),
            _count(one["partitions"]),
            _count(one["records"]),
            "-" if one["stored_bytes"] is None else bytes_text(one["stored_bytes"]),
            instant_text(one["min_timestamp_ms"]),
            instant_text(one["max_timestamp_ms"]),
        ]
        for one in document["backups"]
    ]
    rest = [number("RECORDS"), number("STORED"), text("FIRST RECORD"), text("LAST RECORD")]
    if any(one["encrypted"] for one in document["backups"]):
        rest.append(text("ENCRYPTED"))
        rows = [[*row, "yes" if one["encrypted"] else "no"] for row, one in zip(rows, document["backups"], strict=True)]
    errors = [f"{one['backup_id']}: {one['error']}" for one in document["backups"] if one["error"]]
    left = [f"{one['backup_id']}: {LEFT_RUNNING}" for one in document["backups"] if one["lock_held"] is False]
    foreign = [
        f"{one['backup_id']}: made by {one['made_by']}" for one in document["backups"] if one["made_by"] not in {None, "kbr"}
    ]
    return [table([*columns, *rest], rows), *errors, *left, *foreign]


def _count(value: int | None) -> str:
    return "-" if value is None else count_text(value)
