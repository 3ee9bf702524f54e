"""``kbr index build|show``: flags, one call, a few lines."""

from __future__ import annotations

from pathlib import Path
from typing import TypedDict

import click

from kbr.cli.options import Invocation, chosen_backup, config_options, storage_option, verb
from kbr.cli.render import Block
from kbr.cli.units import bytes_text, count_text, counted, instant_text

__all__ = ["IndexBuildDocument", "IndexDocument", "build_blocks", "command", "show_blocks"]


class IndexBuildDocument(TypedDict):
    """``kbr index build``."""

    backup_id: str
    segments: int
    segments_left: int
    blocks: int
    pieces: int
    index_bytes: int
    duration_s: float
    problems: list[str]


class IndexDocument(TypedDict):
    """``kbr index show``; ``state`` is current, behind, stale or unreadable."""

    backup_id: str
    state: str
    segments: int
    segments_covered: int
    blocks: int
    pieces: int
    runs: int
    index_bytes: int
    updated_at_ms: int | None
    reasons: list[str]


@click.group("index")
def command() -> None:
    """Build or show a backup's index of blocks."""


@command.command("build")
@click.argument("backup_id", required=False)
@config_options
@storage_option
@verb
def build(
    *,
    invocation: Invocation,
    backup_id: str | None,
    config_path: Path | None,
    sets: tuple[str, ...],
    storage: str | None,
) -> int:
    """Write a backup's index of blocks anew.

    From the segments' own indexes, whatever is there; an older one stays until the new one is whole. The index makes
    plans of a time window fast in a backup of very many segments, and is never needed. With backup.index on, backups
    keep it up. While a run writes the backup this ends with exit code 11.

    \b
    kbr index build --storage s3://backups/kafka nightly-1
    """
    config = invocation.load(config_path, sets=sets, overrides={"storage.url": storage, "backup_id": backup_id})
    from kbr.app.block_index import build_index

    return invocation.finish(build_index(config, chosen_backup(config)), build_blocks)


@command.command("show")
@click.argument("backup_id", required=False)
@config_options
@storage_option
@verb
def show(
    *,
    invocation: Invocation,
    backup_id: str | None,
    config_path: Path | None,
    sets: tuple[str, ...],
    storage: str | None,
) -> int:
    """Show how a backup's index of blocks stands.

    Current: it covers all that the manifest lists. Behind: newer segments are not in it, and are planned without.
    Stale or unreadable: it is of another state of the backup, or damaged, and not used (exit code 4).

    \b
    kbr index show --storage s3://backups/kafka nightly-1
    """
    config = invocation.load(config_path, sets=sets, overrides={"storage.url": storage, "backup_id": backup_id})
    from kbr.app.block_index import show_index

    return invocation.finish(show_index(config, chosen_backup(config)), show_blocks)


def build_blocks(document: IndexBuildDocument) -> list[Block]:
    """What people see of a build."""
    blocks: list[Block] = [
        f"Index of backup {document['backup_id']}: {counted(document['blocks'], 'block')} of "
        f"{counted(document['segments'], 'segment')}, {bytes_text(document['index_bytes'])} in "
        f"{counted(document['pieces'], 'piece')}, in {document['duration_s']:.1f} s."
    ]
    if document["segments_left"]:
        left = document["segments_left"]
        blocks.append(f"{counted(left, 'segment')} {'is' if left == 1 else 'are'} not in it.")
    return [*blocks, *(f"Left out, and what follows it: {one}" for one in document["problems"])]


def show_blocks(document: IndexDocument) -> list[Block]:
    """What people see of an index."""
    blocks: list[Block] = [
        f"Index of backup {document['backup_id']}: {document['state']}. It covers "
        f"{count_text(document['segments_covered'])} of {counted(document['segments'], 'segment')}."
    ]
    if document["updated_at_ms"] is not None:
        blocks.append(
            f"{counted(document['blocks'], 'block')}, {bytes_text(document['index_bytes'])} in "
            f"{counted(document['pieces'], 'piece')}, written {instant_text(document['updated_at_ms'])}."
        )
    return [*blocks, *document["reasons"]]
