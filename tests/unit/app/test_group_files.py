"""Files for other programs."""

from __future__ import annotations

import csv

import pytest

from kbr.app.group_files import kafka_csv, rpk_file
from kbr.errors import UsageError
from kbr.model import CommittedOffset, TopicPartition
from kbr.restore.groups import GroupRow, Reason


def row(group: str, offset: int | None) -> GroupRow:
    new = None if offset is None else CommittedOffset(offset=offset)
    return GroupRow(
        group=group, source_group=group, partition=TopicPartition("t", 1), old=None, new=new, reason=Reason.SAME, why=""
    )


def test_kafkas_file_has_a_line_for_each_offset_and_no_heading() -> None:
    assert kafka_csv([row("a", 4), row('b, "c"', 5), row("d", None)]) == 'a,t,1,4\n"b, ""c""",t,1,5\n'
    assert list(csv.reader(kafka_csv([row('b, "c"', 5)]).splitlines())) == [['b, "c"', "t", "1", "5"]]
    with pytest.raises(UsageError, match="can't read"):
        kafka_csv([row("a\nb", 1)])


def test_rpks_file_is_of_one_group() -> None:
    assert rpk_file([row("a", 4), row("a", 5), row("b", None)]) == "t 1 4\nt 1 5\n"
    with pytest.raises(UsageError, match="these are 2"):
        rpk_file([row("a", 4), row("b", 5)])
