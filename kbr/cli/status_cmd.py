"""``kbr status``: flags, one call, one table."""

from __future__ import annotations

import click

from kbr.cli.documents import RunEntry, StatusDocument
from kbr.cli.options import Invocation, rates_of, verb
from kbr.cli.render import Block
from kbr.cli.tables import number, table, text
from kbr.cli.units import bytes_text, count_text, counted, duration_text, rate_text

__all__ = ["command", "status_blocks"]

#: Topics of a run that the table shows; JSON has more.
MAX_TOPICS = 20


@click.command("status")
@click.argument("run", required=False)
@click.option(
    "--rate-limit",
    "--bwlimit",
    "rate_limits",
    multiple=True,
    metavar="RATE",
    help="Change the run's limit, now: 50MB/s, 5000records/s, or none; repeatable.",
)
@verb
def command(*, invocation: Invocation, run: str | None, rate_limits: tuple[str, ...]) -> int:
    """Show running backups and restores, or change a rate limit.

    Those of this user. RUN is a process id or a backup_id. Of a backup it says what it is doing, and by topic to which
    offset it is in the store, where the log ended when it was last looked at, and how far behind that is (sums over partitions). A rate that is not named stays as it is; `none` takes both limits off.

    \b
    kbr status
    kbr status nightly --rate-limit 20MB/s
    """
    invocation.start_logging()
    from kbr.app.status import change_rate_limit, running

    rates = rates_of(rate_limits)
    if rates:
        report = change_rate_limit(run, _numbers(rates))
    else:
        report = running(run)
    return invocation.finish(report, status_blocks)


def _numbers(rates: dict[str, str]) -> dict[str, float]:
    """What the run is told: those rates that change, 0 for no limit."""
    from kbr.config.values import parse_rate, parse_record_rate

    numbers = {}
    if "rate_limit" in rates:
        numbers["bytes_per_s"] = float(parse_rate(rates["rate_limit"]) or 0)
    if "rate_limit_records" in rates:
        numbers["records_per_s"] = float(parse_record_rate(rates["rate_limit_records"]) or 0)
    return numbers


def status_blocks(document: StatusDocument) -> list[Block]:
    """What people see of the runs."""
    if not document["runs"]:
        return ["Nothing runs."]
    columns = [number("PID"), text("VERB"), text("BACKUP"), number("RECORDS"), number("OF"), number("SIZE")]
    rest = [number("RATE"), text("LIMIT"), number("ELAPSED"), number("ETA")]
    blocks: list[Block] = [table([*columns, *rest], [_row(one) for one in document["runs"]])]
    for run in document["runs"]:
        blocks += _topic_blocks(run)
    return blocks


def _topic_blocks(run: RunEntry) -> list[Block]:
    """What a backup is doing, and its topics, those furthest behind first."""
    if run["doing"] is None:
        return []
    behind = run["lag_records"] or 0
    lag = f"at most {counted(behind, 'record')} behind" if behind else "up to date"
    known = f"; {lag} at the last look" if run["topics"] else ""
    blocks: list[Block] = ["", f"Backup {run['backup_id']} (pid {run['pid']}): {run['doing']}{known}"]
    shown = run["topics"][:MAX_TOPICS]
    if not shown:
        return blocks
    columns = [text("TOPIC"), number("PARTITIONS"), number("ARCHIVED TO"), number("LOG END SEEN"), number("LAG")]
    rows = [
        [
            one["topic"],
            count_text(one["partitions"]),
            count_text(one["next_offset"]),
            count_text(one["high_watermark"]),
            count_text(one["lag_records"]),
        ]
        for one in shown
    ]
    blocks.append(table(columns, rows))
    left = (run["topic_count"] or 0) - len(shown)
    return [*blocks, f"and {count_text(left)} more topics, none of them further behind"] if left > 0 else blocks


def _row(run: RunEntry) -> list[str]:
    return [
        str(run["pid"]),
        run["verb"],
        run["backup_id"],
        count_text(run["records"]),
        "-" if run["total_records"] is None else count_text(run["total_records"]),
        bytes_text(run["raw_bytes"]),
        rate_text(run["bytes_per_s"]),
        _limit_text(run),
        duration_text(run["elapsed_s"]),
        "-" if run["eta_s"] is None else duration_text(run["eta_s"]),
    ]


def _limit_text(run: RunEntry) -> str:
    size, records = run["rate_limit"]["bytes_per_s"], run["rate_limit"]["records_per_s"]
    parts = [rate_text(size)] if size else []
    if records:
        parts.append(f"{count_text(round(records))} records/s")
    return ", ".join(parts) or "none"
