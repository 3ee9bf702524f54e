"""In which bundles a run's work is handed out to its workers. Pure: sizes and leaders in, an order out.

Guided self-scheduling (Polychronopoulos and Kuck, 1987) over work sorted by size: whoever is idle takes the next
bundle, and bundles become smaller as less is left, so that the last ones even out what the first ones were wrong
about. Large pieces come first, for what begins late ends late.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

__all__ = ["MAX_BUNDLE", "make_bundles"]

_Item = TypeVar("_Item")

#: Pieces in one bundle: bounds a worker's open segments and the size of its requests.
MAX_BUNDLE = 256
#: A bundle holds this part of a fair share of what is left: half of it, so that a worker that got the slower half can
#: still be waited for by others with something to do.
_SHARE = 2
#: No bundle of several pieces is smaller than this part of a worker's share of all: each costs a client's start (40 ms),
#: and what the last one can be late by is this much of the whole (3 %).
_LEAST_SHARE = 32
#: A piece may be taken before a larger one for the sake of another broker, if it is at least this part of it.
_ALIKE = 0.8


def make_bundles(
    items: Sequence[_Item],
    *,
    size: Callable[[_Item], int],
    leader: Callable[[_Item], int],
    workers: int,
) -> list[tuple[_Item, ...]]:
    """Put pieces of work together for workers that take a bundle whenever they are idle, in this order.

    Args:
        items: partitions, say.
        size: what one costs, in any unit.
        leader: the broker that serves it. Each bundle, and each run of bundles, is spread over the brokers as far
            as sizes allow, so that no broker has all workers at once.
        workers: how many take them.
    """
    heads = _Heads(items, size, leader)
    bundles: list[tuple[_Item, ...]] = []
    left = total = sum(map(size, items))
    while heads:
        wanted = max(left / (workers * _SHARE), total / (workers * _LEAST_SHARE))
        bundle = [heads.take()]
        filled = size(bundle[0])
        while heads and len(bundle) < MAX_BUNDLE and filled + heads.largest <= wanted:
            bundle.append(heads.take())
            filled += size(bundle[-1])
        bundles.append(tuple(bundle))
        left -= filled
    return bundles


class _Heads(Generic[_Item]):
    """The pieces by leader, each leader's largest first."""

    def __init__(self, items: Sequence[_Item], size: Callable[[_Item], int], leader: Callable[[_Item], int]) -> None:
        self._size = size
        #: What each leader was given to do so far.
        self._given: dict[int, int] = {}
        self._queues: dict[int, deque[_Item]] = {}
        for item in sorted(items, key=size, reverse=True):
            self._queues.setdefault(leader(item), deque()).append(item)
            self._given[leader(item)] = 0

    def __bool__(self) -> bool:
        return bool(self._queues)

    @property
    def largest(self) -> int:
        """Size of the largest piece."""
        return max(self._size(queue[0]) for queue in self._queues.values())

    def take(self) -> _Item:
        """The largest piece, or one about as large of the leader that has least to do."""
        enough = self.largest * _ALIKE
        chosen = min(
            (number for number, queue in self._queues.items() if self._size(queue[0]) >= enough),
            key=lambda number: (self._given[number], -self._size(self._queues[number][0]), number),
        )
        item = self._queues[chosen].popleft()
        self._given[chosen] += self._size(item)
        if not self._queues[chosen]:
            del self._queues[chosen]
        return item
