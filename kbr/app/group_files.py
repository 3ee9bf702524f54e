"""Plans for groups as files that other programs load: kafka-consumer-groups, rpk. Pure."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from kbr.errors import UsageError
from kbr.restore.groups import GroupRow

__all__ = ["kafka_csv", "rpk_file"]


def kafka_csv(rows: Sequence[GroupRow]) -> str:
    """Lines of group, topic, partition and offset, without a heading (org.apache.kafka.tools.consumer.group.CsvUtils).

    Raises:
        UsageError: a group's name has a line break: the tool splits the file there, whatever the quotes.
    """
    broken = sorted({row.group for row in rows if len(row.group.splitlines()) != 1})
    if broken:
        raise UsageError(
            f"kafka-consumer-groups can't read a file with the group {broken[0]!a}",
            hint="name the other groups with --group; kbr groups apply can do this one",
        )
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    for row in rows:
        if row.new is not None:
            writer.writerow([row.group, row.partition.topic, row.partition.partition, row.new.offset])
    return out.getvalue()


def rpk_file(rows: Sequence[GroupRow]) -> str:
    """Lines of TOPIC PARTITION OFFSET, of one group.

    Raises:
        UsageError: there are several groups.
    """
    groups = sorted({row.group for row in rows if row.new is not None})
    if len(groups) > 1:
        raise UsageError(
            f"a file for rpk is of one group, and these are {len(groups)}", hint="name one with --group"
        )
    return "".join(
        f"{row.partition.topic} {row.partition.partition} {row.new.offset}\n" for row in rows if row.new is not None
    )
