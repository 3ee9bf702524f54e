"""What is taken for this restore's own records, and what is not: random plans, windows, cut positions and holes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbr.errors import Interrupted, TargetChanged, TopicNotEmpty
from kbr.kafka.ranges import RangeEnded, RangeRecords
from kbr.kafka.settings import ClientSettings
from kbr.model import OffsetRange, Record, TopicPartition
from kbr.restore.check import TAIL_RECORDS, PartitionStart, TargetCheck
from kbr.restore.compare import RecordRules
from kbr.restore.plan import PartitionPlan
from kbr.restore.standing import Standing
from kbr.restore.stream import PlanStream
from kbr.restore.window import TimeWindow
from kbr_codec import encode_block
from tests.support.backups import RecordingStore, identity_of, write_segment

TARGET = TopicPartition("back", 0)
RULES = RecordRules(original_offset_header=b"", zero_timestamp_as=0)
MAX_BLOCK_BYTES = 1 << 24


class Case:
    """One partition: its records in the store, and those that a restore of a window sends."""

    def __init__(self, blocks: Sequence[Sequence[Record]], per_segment: int, window: TimeWindow) -> None:
        self.store = RecordingStore()
        self.window = window
        references = []
        for start in range(0, len(blocks), per_segment):
            some = blocks[start : start + per_segment]
            references.append(
                write_segment(
                    self.store,
                    identity_of(sequence=some[0][0].offset),
                    [encode_block(block) for block in some],
                    some[-1][-1].offset + 1,
                )
            )
        self.plan = PartitionPlan(
            source=TopicPartition("orders", 0),
            target=TARGET,
            segments=tuple(ref for ref in references if window.touches(ref)),
        )
        self.sent = [
            record for block in blocks for record in block if window.start_ms <= record.timestamp <= window.end_ms
        ]

    def stream(self, _partition: PartitionPlan | None = None) -> PlanStream:
        return PlanStream(self.store, "nightly", self.plan, self.window, max_block_bytes=MAX_BLOCK_BYTES)

    def start(
        self,
        target: Sequence[Record],
        *,
        base: int,
        end: int | None = None,
        log_start: int = 0,
        noted: bool = True,
        has_holes: bool = False,
        rules: RecordRules = RULES,
    ) -> PartitionStart | TargetChanged | TopicNotEmpty:
        """Compare with a target that holds some records, and ends at ``end``."""

        def read(ranges: Sequence[tuple[TopicPartition, OffsetRange]]) -> Iterator[RangeRecords | RangeEnded]:
            for index, (_partition, offsets) in enumerate(ranges):
                found = [one for one in target if offsets.start_offset <= one.offset < offsets.end_offset_exclusive]
                for at in range(0, len(found), 7):
                    yield RangeRecords(index, found[at : at + 7])
                yield RangeEnded(index)

        check = TargetCheck(
            ClientSettings(bootstrap_servers=("nowhere:1",)),
            self.stream,
            rules,
            has_holes=lambda _topic: has_holes,
            deadline_s=1,
            stopped=lambda: False,
            on_client_message=lambda _message: None,
            read=read,
        )
        high = base + len(target) if end is None else end
        standing = Standing(base=base, claimed=high - base, log_start=log_start, noted=noted)
        return check.starts([self.plan], {TARGET: standing}, refuse=False)[TARGET]


def restored(records: Sequence[Record], base: int) -> list[Record]:
    """As a target shows them."""
    return [record._replace(offset=base + number, timestamp_type=1) for number, record in enumerate(records)]


def simple(count: int = 1000) -> Case:
    records = [Record(3 * number, 1000 + number, 1, b"k", b"v%d" % number, ()) for number in range(count)]
    return Case([records[at : at + 90] for at in range(0, count, 90)], 3, TimeWindow())


def test_a_target_that_ends_before_the_restore_began_is_told() -> None:
    found = simple().start([], base=100, end=90)
    assert isinstance(found, TargetChanged)
    assert "ends at offset 90, and the restore began at offset 100" in str(found)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    offset = draw(st.integers(0, 50))
    blocks = []
    for _ in range(draw(st.integers(1, 7))):
        block = []
        for _ in range(draw(st.integers(1, 12))):
            offset += draw(st.integers(1, 4))
            headers = draw(st.sampled_from([(), ((b"a", None),), ((b"a", b""), (b"a", b"1"))]))
            block.append(
                Record(
                    offset,
                    draw(st.integers(1, 60)),
                    draw(st.sampled_from([1, 2])),
                    draw(st.sampled_from([None, b"", b"key"])),
                    draw(st.sampled_from([None, b"", b"value", b"other"])),
                    headers,
                )
            )
        blocks.append(block)
    ends = sorted([draw(st.integers(0, 70)), draw(st.integers(0, 70))])
    window = draw(st.sampled_from([TimeWindow(), TimeWindow(start_ms=ends[0], end_ms=ends[1])]))
    return Case(blocks, draw(st.integers(1, 3)), window)


@given(case=cases(), data=st.data())
def test_positions_are_those_of_the_records_that_are_sent(case: Case, data: st.DataObject) -> None:
    assert [record for _position, record in case.stream().records()] == case.sent
    count = data.draw(st.integers(0, len(case.sent) + 3))
    most = data.draw(st.integers(1, 10))
    tail = case.stream().tail(count, max_records=most, max_bytes=1 << 20)
    assert tail.total == min(count, len(case.sent))
    assert tail.first_position + len(tail.records) == tail.total
    assert list(tail.records) == case.sent[tail.first_position : tail.total]
    assert len(tail.records) == min(most, tail.total)
    position = data.draw(st.integers(0, len(case.sent)))
    assert list(case.stream().records(position)) == list(enumerate(case.sent))[position:]


def test_a_tail_of_large_records_is_bounded_but_never_empty() -> None:
    records = [Record(number, 1, 1, None, b"x" * 1000, ()) for number in range(50)]
    case = Case([records[:25], records[25:]], 1, TimeWindow())
    assert len(case.stream().tail(40, max_records=200, max_bytes=4500).records) == 4
    assert len(case.stream().tail(40, max_records=200, max_bytes=10).records) == 1


@given(case=cases(), data=st.data(), noted=st.booleans())
def test_what_was_sent_is_recognised_and_the_next_record_is_the_one_behind_it(
    case: Case, data: st.DataObject, noted: bool
) -> None:
    count = data.draw(st.integers(0, len(case.sent)))
    base = data.draw(st.integers(0, 100)) if noted else 0
    start = case.start(restored(case.sent[:count], base), base=base, noted=noted)
    assert isinstance(start, PartitionStart)
    assert (start.kept, start.target_offset) == (count, base + count)
    left = case.plan.going_on(offset_from=start.offset_from, target_offset=start.target_offset)
    stream = PlanStream(case.store, "nightly", left, case.window, max_block_bytes=MAX_BLOCK_BYTES)
    rest = [record for _position, record in stream.records() if record.offset >= start.offset_from]
    assert rest == case.sent[count:]


@given(case=cases(), data=st.data(), noted=st.booleans())
def test_the_first_different_record_is_the_one_that_is_named(case: Case, data: st.DataObject, noted: bool) -> None:
    if not case.sent:
        return
    count = data.draw(st.integers(1, len(case.sent)))
    target = restored(case.sent[:count], 5)
    at = data.draw(st.integers(0, count - 1))
    change = data.draw(
        st.sampled_from(
            [{"key": b"another"}, {"value": b"another"}, {"headers": ((b"z", b""),)}, {"timestamp": 99}, {"timestamp_type": 2}]
        )
    )
    # from there on nothing is where it should be, as behind a foreign record
    target[at:] = [one._replace(**change) for one in target[at:]]
    refusal = case.start(target, base=5, noted=noted)
    assert isinstance(refusal, TopicNotEmpty)
    assert refusal.context["target_offset"] == 5 + at
    assert refusal.context["source_offset"] == case.sent[at].offset


@given(case=cases(), more=st.integers(1, 5), noted=st.booleans())
def test_more_records_than_the_plan_has_are_refused_at_the_first_one_too_many(
    case: Case, more: int, noted: bool
) -> None:
    surplus = [Record(0, 1, 1, b"more", b"", ())] * more
    refusal = case.start(restored([*case.sent, *surplus], 7), base=7, noted=noted)
    assert isinstance(refusal, TopicNotEmpty)
    assert refusal.context["target_offset"] == 7 + len(case.sent)


@given(case=cases(), data=st.data(), noted=st.booleans())
def test_records_that_compaction_removed_are_no_difference_and_elsewhere_they_are(
    case: Case, data: st.DataObject, noted: bool
) -> None:
    if len(case.sent) < 2:
        return
    count = data.draw(st.integers(2, len(case.sent)))
    whole = restored(case.sent[:count], 0)
    kept = [one for one in whole[:-1] if data.draw(st.booleans())] + whole[-1:]
    start = case.start(kept, base=0, end=count, has_holes=True, noted=noted)
    assert isinstance(start, PartitionStart)
    assert (start.kept, start.offset_from) == (count, case.sent[count - 1].offset + 1)
    if len(kept) < count and not noted:
        refusal = case.start(kept, base=0, end=count, has_holes=False, noted=noted)
        assert isinstance(refusal, TopicNotEmpty)
        assert "has no record at offset" in str(refusal)


@given(case=cases(), data=st.data())
def test_what_retention_removed_from_the_beginning_is_counted_and_not_missed(case: Case, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, len(case.sent)))
    gone = data.draw(st.integers(0, count))
    start = case.start(restored(case.sent[:count], 4)[gone:], base=4, end=4 + count, log_start=4 + gone)
    assert isinstance(start, PartitionStart)
    assert (start.kept, start.gone) == (count, gone)


def test_a_transactions_marker_where_a_record_should_be_is_refused() -> None:
    case = simple()
    target = restored(case.sent[:500], 0)
    refusal = case.start(target, base=0, end=501)
    assert isinstance(refusal, TopicNotEmpty)
    assert "it has no record at offset 500, where the backup's record at offset 1500 should be" in str(refusal)


def test_a_target_with_offsets_but_nothing_to_compare_is_only_believed_with_notes() -> None:
    case = simple()
    refusal = case.start([], base=0, end=10, noted=False, has_holes=True)
    assert isinstance(refusal, TopicNotEmpty)
    assert "no record that could be compared" in str(refusal)
    start = case.start([], base=0, end=10, log_start=10)
    assert isinstance(start, PartitionStart)
    assert (start.kept, start.gone, start.offset_from) == (10, 10, 28)


def test_a_tail_is_enough_where_an_earlier_run_noted_where_it_began() -> None:
    case = simple()
    target = restored(case.sent[:900], 0)
    far = target[900 - TAIL_RECORDS - 50]
    target[far.offset] = far._replace(value=b"changed")
    assert isinstance(case.start(target, base=0), PartitionStart)
    assert isinstance(case.start(target, base=0, noted=False), TopicNotEmpty)


def test_the_zero_timestamp_and_the_offset_header_are_applied_before_comparing() -> None:
    records = [Record(40 + number, 0, 1, b"k", b"v", ((b"a", None),)) for number in range(5)]
    case = Case([records], 1, TimeWindow())
    rules = RecordRules(original_offset_header=b"x-original-offset", zero_timestamp_as=7)
    target = [
        one._replace(timestamp=7, headers=(*one.headers, (b"x-original-offset", b"%d" % (40 + number))))
        for number, one in enumerate(restored(records, 0))
    ]
    assert isinstance(case.start(target, base=0, rules=rules), PartitionStart)
    refusal = case.start(target, base=0)
    assert isinstance(refusal, TopicNotEmpty)
    assert "it should have 1 header of 1 bytes, and has 2 headers" in str(refusal)


def test_the_hint_offers_append_only_where_it_doubles_nothing() -> None:
    case = simple(40)
    foreign = [Record(number, 7, 1, b"x", b"y", ()) for number in range(40)]
    begins_alike = [*restored(case.sent[:5], 0), *foreign[5:]]

    def hint(target: Sequence[Record], *, noted: bool) -> str:
        refusal = case.start(target, base=0, noted=noted)
        assert isinstance(refusal, TopicNotEmpty)
        return refusal.hint

    assert "add to it with --append: all of the backup's records come behind" in hint(foreign, noted=False)
    assert "begins with 5 of the backup's records" in hint(begins_alike, noted=False)
    assert "with --append they would be there twice" in hint(begins_alike, noted=False)
    assert "--append does not help" in hint(foreign, noted=True)
    assert "--append does not help" in hint(begins_alike, noted=True)


def test_a_message_never_shows_what_is_in_a_record() -> None:
    archived = Record(1, 1, 1, b"secret-key", b"secret-value", ((b"secret-name", b"secret"),))
    for change in ({"key": None}, {"value": b"secret-other"}, {"headers": ()}, {"timestamp": 5}):
        words = RULES.difference(archived, archived._replace(**change))
        assert words
        assert "secret" not in words


def test_a_stop_ends_the_comparison() -> None:
    case = simple()

    def read(ranges: Sequence[tuple[TopicPartition, OffsetRange]]) -> Iterator[RangeRecords | RangeEnded]:
        yield RangeRecords(0, restored(case.sent[:5], 0))

    check = TargetCheck(
        ClientSettings(bootstrap_servers=("nowhere:1",)), case.stream, RULES, has_holes=lambda _topic: False, deadline_s=1,
        stopped=lambda: True, on_client_message=lambda _message: None, read=read,
    )  # fmt: skip
    standing = Standing(base=0, claimed=5, log_start=0, noted=False)
    with pytest.raises(Interrupted, match="was compared with the backup"):
        check.starts([case.plan], {TARGET: standing}, refuse=True)
