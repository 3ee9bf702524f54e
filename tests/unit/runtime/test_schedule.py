"""The order of work: largest first, over all brokers, and nobody is left waiting at the end."""

from __future__ import annotations

import heapq
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbr.runtime.schedule import MAX_BUNDLE, make_bundles

Item = tuple[int, int]  # size, leader


def _bundles(items: list[Item], workers: int) -> list[tuple[Item, ...]]:
    return make_bundles(items, size=lambda one: one[0], leader=lambda one: one[1], workers=workers)


def _makespan(bundles: list[tuple[Item, ...]], workers: int) -> int:
    """Everybody takes the next bundle when idle."""
    free = [0] * workers
    for bundle in bundles:
        heapq.heappush(free, heapq.heappop(free) + sum(size for size, _ in bundle))
    return max(free)


def _sizes(kind: str, count: int) -> list[int]:
    source = random.Random(kind)
    if kind == "equal":
        return [1000] * count
    if kind == "lognormal":
        return [int(source.lognormvariate(10, 2)) + 1 for _ in range(count)]
    if kind == "zipf":
        return [10_000_000 // rank + 1 for rank in range(1, count + 1)]
    return [1_000_000] + [source.randint(1, 2000) for _ in range(count - 1)]


@pytest.mark.parametrize("kind", ["equal", "lognormal", "zipf", "giant"])
@pytest.mark.parametrize("count", [65, 1000, 20_000])
@pytest.mark.parametrize("workers", [1, 2, 64])
def test_the_last_worker_ends_within_5_percent_of_the_ideal(kind: str, count: int, workers: int) -> None:
    items = [(size, index % 6) for index, size in enumerate(_sizes(kind, count))]
    total, largest = sum(size for size, _ in items), max(items)[0]
    ideal = max(total / workers, largest)
    if kind == "equal" and count == 65 and workers == 64:
        ideal = 2000  # two rounds: there are no smaller pieces
    assert _makespan(_bundles(items, workers), workers) <= 1.05 * ideal


@given(
    items=st.lists(st.tuples(st.integers(1, 10**12), st.integers(-1, 5)), max_size=400),
    workers=st.integers(1, 100),
)
def test_every_piece_is_in_one_bundle_and_no_bundle_is_too_large(items: list[Item], workers: int) -> None:
    bundles = _bundles(items, workers)
    assert Counter(item for bundle in bundles for item in bundle) == Counter(items)
    assert all(0 < len(bundle) <= MAX_BUNDLE for bundle in bundles)


def test_a_piece_larger_than_a_share_goes_alone_and_first() -> None:
    bundles = _bundles([(5, 0), (1_000_000, 0), (7, 0), (6, 0)], workers=2)
    assert bundles[0] == ((1_000_000, 0),)


def test_as_many_pieces_as_workers_are_a_bundle_each() -> None:
    assert [len(bundle) for bundle in _bundles([(10, 0), (9, 0), (8, 0)], workers=3)] == [1, 1, 1]


def test_a_thousand_small_pieces_are_few_bundles() -> None:
    assert len(_bundles([(1000, number % 3) for number in range(1000)], workers=2)) <= 16


def test_neighbouring_large_pieces_have_different_leaders() -> None:
    """The topic's partitions come sorted by broker; taken in that order one broker would serve all workers."""
    items = [(1000 + leader, leader) for leader in range(4) for _ in range(8)]
    first = [bundle[0][1] for bundle in _bundles(items, workers=32)]
    for at in range(0, 32, 4):
        assert sorted(first[at : at + 4]) == [0, 1, 2, 3]


def test_a_bundle_of_small_pieces_is_spread_over_the_brokers() -> None:
    items = [(10, leader) for leader in range(4) for _ in range(250)]
    for bundle in _bundles(items, workers=2):
        counts = Counter(leader for _, leader in bundle)
        assert max(counts.values()) - min(counts.values()) <= 1
        assert len(counts) == 4


def test_work_for_50_000_partitions_is_cut_in_seconds() -> None:
    source = random.Random(1)
    items = [(source.randint(1, 10**6), source.randint(1, 30)) for _ in range(50_000)]
    assert sum(map(len, _bundles(items, workers=64))) == 50_000
