"""``kbr demo``: flags, one call, one table."""

from __future__ import annotations

from pathlib import Path

import click

from kbr.cli.documents import DemoDocument
from kbr.cli.live import live
from kbr.cli.options import Invocation, verb
from kbr.cli.render import Block
from kbr.cli.tables import number, table, text
from kbr.cli.units import bytes_text, count_text, duration_text, instant_text

__all__ = ["command", "demo_blocks"]


@click.command("demo")
@click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep the demo's backup in this folder, to look at it afterwards.",
)
@verb
def command(*, invocation: Invocation, directory: Path | None) -> int:
    """See kbr work, on a broker of its own.

    Starts a small broker in this process, fills a few topics with keys, headers, tombstones and timestamps, backs them
    up, restores them whole and for a time window, and compares every record.
    """
    invocation.start_logging()
    from kbr.app.demo import run_demo

    with live(invocation) as (progress, stop):
        report = run_demo(directory=directory, progress=progress, stop=stop)
    return invocation.finish(report, demo_blocks)


def demo_blocks(document: DemoDocument) -> list[Block]:
    """What a newcomer sees."""
    rows = [
        [
            one["topic"],
            count_text(one["partitions"]),
            count_text(one["produced"]),
            count_text(one["backed_up"]),
            count_text(one["restored"]),
            count_text(one["restored_window"]),
            "yes" if one["verified"] else "NO",
        ]
        for one in document["topics"]
    ]
    window = f"{instant_text(document['time_window_start_ms'])} to {instant_text(document['time_window_end_ms'])}"
    blocks: list[Block] = [
        *(f"{count}. {step}" for count, step in enumerate(document["steps"], start=1)),
        "",
        table(
            [
                text("TOPIC"),
                number("PARTITIONS"),
                number("PRODUCED"),
                number("BACKED UP"),
                number("RESTORED"),
                number("IN WINDOW"),
                text("IDENTICAL"),
            ],
            rows,
        ),
        "",
        f"The window was {window}.",
        f"{bytes_text(document['raw_bytes'])} of encoded records are {bytes_text(document['stored_bytes'])} in the backup. "
        f"Took {duration_text(document['duration_s'])}.",
    ]
    if document["directory"]:
        blocks.append(f"The backup is in {document['directory']}: kbr list --storage {document['directory']}")
    return blocks
