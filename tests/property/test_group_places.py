"""Groups are put where a reading record by record would put them."""

from __future__ import annotations

from itertools import groupby

from hypothesis import given
from hypothesis import strategies as st

from kbr.model import CommittedOffset, GroupOffsets, TopicPartition
from kbr.repository.offset_maps import OffsetRangeMap
from kbr.restore.groups import Reason, place_groups
from tests.support.range_map import RangeMap

#: A restored record: source partition, its offset there, target partition.
Record = tuple[int, int, int]


@st.composite
def _restores(draw: st.DrawFn) -> tuple[list[tuple[Record, int]], dict[int, int]]:
    """Restored records with their target offsets, and the targets' bases; each source's in order."""
    sources = draw(st.integers(1, 3))
    spread = draw(st.booleans())
    streams = {
        source: [
            (source, offset, draw(st.integers(0, 2)) if spread else source)
            for offset in sorted(draw(st.sets(st.integers(0, 30), max_size=12)))
        ]
        for source in range(sources)
    }
    bases = {target: draw(st.integers(0, 5)) for target in range(3)}
    ends = dict(bases)
    restored = []
    # sources' records come to a target in any order, each source's in its own
    while any(streams.values()):
        source = draw(st.sampled_from([one for one, left in streams.items() if left]))
        record = streams[source].pop(0)
        restored.append((record, ends[record[2]]))
        ends[record[2]] += 1
    return restored, bases


def _ranges(restored: list[tuple[Record, int]]) -> list[OffsetRangeMap]:
    found = []
    ordered = sorted(restored)
    for _, run in groupby(enumerate(ordered), key=lambda one: (one[1][0][0], one[1][0][2], one[1][0][1] - one[0], one[1][1] - one[0])):
        rows = [row for _, row in run]
        (source, offset, target), place = rows[0]
        found.append(
            OffsetRangeMap(
                source=TopicPartition("s", source), target=TopicPartition("t", target),
                source_start=offset, target_start=place, count=len(rows),
            )
        )  # fmt: skip
    return found


@given(
    restore=_restores(),
    committed=st.dictionaries(st.integers(0, 2), st.integers(0, 33), min_size=1),
    ends=st.sampled_from([{}, {TopicPartition("s", number): 100 for number in range(3)}]),
)
def test_a_group_reads_on_with_all_that_it_has_not_read_and_no_less_than_it_may(
    restore: tuple[list[tuple[Record, int]], dict[int, int]], committed: dict[int, int], ends: dict[TopicPartition, int]
) -> None:
    restored, bases = restore
    group = GroupOffsets(
        group="g", kind="classic", state="Empty",
        offsets={TopicPartition("s", one): CommittedOffset(offset=offset) for one, offset in committed.items()},
    )  # fmt: skip
    placed = place_groups({"g": group}, RangeMap(_ranges(restored)), ends)["g"]
    for target in range(3):
        mine = [(record, place) for record, place in restored if record[2] == target and record[0] in committed]
        found = placed.get(TopicPartition("t", target))
        if not mine:
            assert found is None
            continue
        assert found is not None
        assert found.offset is not None
        unread = [place for (source, offset, _), place in mine if offset >= committed[source]]
        end = max(place for _, place in mine) + 1
        # what it has committed nothing for counts as unread, where the backup knows of it
        others = [place for record, place in restored if record[2] == target and record[0] not in committed] if ends else []
        assert all(place >= found.offset for place in others)
        # nothing that it has not read is before it, and it is not put before what it could have been put on
        assert all(place >= found.offset for place in unread)
        assert bases[target] <= found.offset <= end
        sources = {source for (source, _, _), _ in mine}
        if len(sources) == 1 and not others:
            assert found.offset == min(unread, default=end)
    for source in committed:
        if not any(record[0] == source for record, _ in restored):
            assert placed[TopicPartition("s", source)].reason is Reason.NOT_RESTORED
