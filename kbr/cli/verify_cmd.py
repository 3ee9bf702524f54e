"""``kbr verify``: flags, one call, one table."""

from __future__ import annotations

from pathlib import Path

import click

from kbr.cli.documents import VerifyDocument
from kbr.cli.options import Invocation, chosen_backup, config_options, storage_option, verb
from kbr.cli.render import Block
from kbr.cli.tables import number, table, text
from kbr.cli.units import bytes_text, count_text, counted

__all__ = ["command", "verify_blocks"]


@click.command("verify")
@click.argument("backup_id", required=False)
@click.option("--deep", is_flag=True, help="Decode every block, and check counts, offsets and timestamps.")
@config_options
@storage_option
@verb
def command(
    *,
    invocation: Invocation,
    backup_id: str | None,
    deep: bool,
    config_path: Path | None,
    sets: tuple[str, ...],
    storage: str | None,
) -> int:
    """Prove that a backup is whole.

    Every object has to be there, with its size and SHA-256. Exit code 4 says that something is damaged. Without
    BACKUP_ID it is the configuration's backup_id. Of an encrypted backup, without a key only presence and sizes are checked.

    \b
    kbr verify --storage s3://backups/kafka nightly-1 --deep
    """
    config = invocation.load(config_path, sets=sets, overrides={"storage.url": storage, "backup_id": backup_id})
    from kbr.app.inspect import verify_backup

    return invocation.finish(verify_backup(config, chosen_backup(config), deep=deep), verify_blocks)


def verify_blocks(document: VerifyDocument) -> list[Block]:
    """What people see of a verification."""
    result = "good" if document["undamaged"] else "DAMAGED"
    checked = f"{counted(document['objects'], 'segment')} ({bytes_text(document['bytes'])})"
    if document["presence_only"]:
        result = "all there" if document["undamaged"] else "DAMAGED"
        checked = f"presence and sizes of {checked}"
    if document["blocks"] is not None and document["records"] is not None:
        checked += f", {counted(document['blocks'], 'block')}, {counted(document['records'], 'record')}"
    signed = " Its manifest is signed by a trusted key." if document["signature_checked"] else ""
    blocks: list[Block] = [f"Backup {document['backup_id']}: {result}. Checked {checked}.{signed}"]
    if document["errors"]:
        rows = [
            [one["object"], "-" if one["position"] is None else count_text(one["position"]), one["what"]]
            for one in document["errors"]
        ]
        blocks += ["", table([text("OBJECT"), number("BYTE"), text("DAMAGE")], rows)]
    return [*blocks, *(f"Note: {note}" for note in document["notes"])]
