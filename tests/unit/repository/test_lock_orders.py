"""The lock under every order of two runs' steps, and under random ones with pauses, clock jumps and lost time."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping

import pytest

from kbr.errors import AccessDenied, Locked, StoreUnavailable
from kbr.repository.lock_claim import LockClaim, LockTimes
from kbr.repository.lock_process import LockProcess
from kbr.storage.base import NO_METADATA, ObjectInfo
from kbr.storage.memory import MemoryStore
from tests.support.clocks import FakeClock
from tests.support.interleaving import Interleaving, every_order

TIMES = LockTimes(life_s=60)
SHORT = LockTimes(life_s=6)


class StoreClock(FakeClock):
    """The store's, which may jump."""

    def __init__(self, time: FakeClock) -> None:
        super().__init__()
        self._time = time
        self.jump_s = 0.0

    def now_ms(self) -> int:
        return self._time.now_ms() + int(self.jump_s * 1000)


class RunClock(FakeClock):
    """A run's: the time is everybody's, its wall clock is off."""

    def __init__(self, time: FakeClock, turns: Interleaving, off_ms: int) -> None:
        super().__init__()
        self._time = time
        self._turns = turns
        self._off_ms = off_ms

    def monotonic(self) -> float:
        return self._time.monotonic()

    def boot_ns(self) -> int:
        return self._time.boot_ns()

    def now_ms(self) -> int:
        return self._time.now_ms() + self._off_ms

    def sleep(self, seconds: float) -> None:
        self._time.advance(seconds)
        self._turns.pause(sleeping=True)


class SteppedStore(MemoryStore):
    """A store whose every request waits for its turn; and its reply, if asked for."""

    def __init__(self, turns: Interleaving, clock: StoreClock, *, replies: bool = False, deletes: bool = True) -> None:
        super().__init__(clock=clock)
        self._turns = turns
        self._replies = replies
        self._deletes = deletes
        self.fails: Callable[[], bool] = lambda: False

    def _reply(self) -> None:
        if self._replies:
            self._turns.pause()
        if self.fails():
            raise StoreUnavailable("the reply was lost")

    def put(
        self, key: str, data: bytes, *, if_absent: bool = False, metadata: Mapping[str, str] = NO_METADATA
    ) -> ObjectInfo:
        self._turns.pause()
        if self.fails():
            raise StoreUnavailable("no answer")
        info = super().put(key, data, if_absent=if_absent, metadata=metadata)
        self._reply()
        return info

    def get(self, key: str, *, max_bytes: int) -> bytes:
        self._turns.pause()
        return super().get(key, max_bytes=max_bytes)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        self._turns.pause()
        found = list(super().list(prefix))
        self._reply()
        return iter(found)

    def delete(self, key: str) -> None:
        self._turns.pause()
        if not self._deletes:
            raise AccessDenied("no right to delete")
        super().delete(key)
        self._reply()


def process_of(number: int) -> LockProcess:
    """One of a machine of its own, so that nobody can tell whether it is there."""
    return LockProcess(
        host=f"host-{number}", boot_id=f"boot-{number}", pid=1, pid_namespace="pid:[1]", started="1", user="u"
    )


class World:
    """Some runs that want one backup."""

    def __init__(
        self, count: int, *, times: LockTimes = TIMES, replies: bool = False, deletes: bool = True, off_ms: int = 1
    ) -> None:
        self.times = times
        self.time = FakeClock()
        self.turns = Interleaving()
        self.store_clock = StoreClock(self.time)
        self.store = SteppedStore(self.turns, self.store_clock, replies=replies, deletes=deletes)
        self.claims = [self.claim(number, off_ms) for number in range(count)]

    def claim(self, number: int, off_ms: int = 1) -> LockClaim:
        return LockClaim(
            self.store,
            "nightly",
            verb="backup",
            times=self.times,
            clock=RunClock(self.time, self.turns, number * off_ms),
            process=process_of(number),
        )

    def holders(self) -> list[LockClaim]:
        """Who counts on the backup now."""
        return [claim for claim in self.claims if claim.valid_until_ns > self.time.boot_ns()]


def _contend(world: World, choose: Callable[[list[int]], int]) -> list[Locked | None]:
    outcomes: list[Locked | None] = [Locked("never asked")] * len(world.claims)

    def program(number: int) -> None:
        outcomes[number] = world.claims[number].attempt()
        assert len(world.holders()) <= 1

    world.turns.run([lambda number=number: program(number) for number in range(len(world.claims))], choose)  # type: ignore[misc]
    return outcomes


@pytest.mark.fault("P4", "every order of the steps of two runs", promise=1)
@pytest.mark.parametrize("deletes", [True, False])
@pytest.mark.parametrize("off_ms", [1, -1])
def test_of_two_runs_one_gets_the_backup_in_every_order_of_their_steps(off_ms: int, deletes: bool) -> None:
    orders = 0
    for choose in every_order():
        orders += 1
        world = World(2, deletes=deletes, off_ms=off_ms)
        outcomes = _contend(world, choose)
        assert sum(outcome is None for outcome in outcomes) == 1
        (refused,) = [outcome for outcome in outcomes if outcome is not None]
        winner = next(number for number, outcome in enumerate(outcomes) if outcome is None)
        assert refused.context["host"] == f"host-{winner}"
        assert refused.exit_code == 11
    assert orders > 50


@pytest.mark.fault("P4", "three runs", promise=1)
def test_of_three_runs_one_gets_the_backup_in_random_orders_of_their_steps() -> None:
    for seed in range(1500):
        rng = random.Random(seed)
        world = World(3, off_ms=rng.choice([-1, 1, 7_200_000]), deletes=rng.random() < 0.5)
        outcomes = _contend(world, rng.choice)
        assert sum(outcome is None for outcome in outcomes) == 1, seed


def test_of_three_runs_one_gets_the_backup_in_the_first_orders_of_their_steps() -> None:
    for _number, choose in zip(range(2000), every_order(), strict=False):
        outcomes = _contend(World(3), choose)
        assert sum(outcome is None for outcome in outcomes) == 1


def _live(world: World, number: int, rng: random.Random, commits: list[int]) -> None:
    """A run: gets the backup, works, has heartbeats, and ends, or dies."""
    claim = world.claims[number]
    clock = RunClock(world.time, world.turns, 0)
    for _ in range(3):
        try:
            if claim.attempt() is None:
                break
        except StoreUnavailable:
            pass
        clock.sleep(rng.choice([0.5, 5]))
    else:
        return
    for _ in range(rng.randrange(2, 8)):
        if claim.valid_until_ns > world.time.boot_ns():
            commits.append(number)
        clock.sleep(SHORT.beat_s)
        try:
            if not claim.renew() and claim.recover() is not None:
                claim.valid_until_ns = 0
                break
        except StoreUnavailable:
            pass
    if rng.random() < 0.3:
        return
    try:
        claim.release(is_lost=claim.valid_until_ns == 0)
    except StoreUnavailable:
        pass


class Fate:
    """Chooses who goes on: now and then one is stopped for some time, wherever it is, and a clock jumps."""

    def __init__(self, world: World, rng: random.Random, faults: str) -> None:
        self._world = world
        self._rng = rng
        self._faults = faults
        self._stopped: dict[int, float] = {}

    def choose(self, numbers: list[int]) -> int:
        world, rng = self._world, self._rng
        now = world.time.monotonic()
        assert len(world.holders()) <= 1, self._faults
        if "pauses" in self._faults and rng.random() < 0.04:
            self._stopped[rng.choice(numbers)] = now + rng.choice([1, 2.5, 3.1, 4.1, 4.5, 7, 13])
        if "clock jumps" in self._faults and rng.random() < 0.02:
            world.store_clock.jump_s = rng.choice([-7200, -8, 0, 8, 7200])
        going = [number for number in numbers if self._stopped.get(number, 0.0) <= now]
        if not going:
            world.time.advance(0.5)
            return self.choose(numbers)
        return rng.choice(going)


@pytest.mark.fault("P3", "stops, clock jumps and lost replies at random", promise=1)
@pytest.mark.parametrize("faults", ["pauses", "clock jumps", "lost replies", "pauses, clock jumps", "pauses, lost replies"])
def test_two_runs_never_count_on_one_backup_at_the_same_time_nor_by_turns(faults: str) -> None:
    """Whoever is stopped wherever and goes on, however the store's clock jumps, whichever replies are lost.

    By turns: one that had lost it never comes back, not even when the other is gone.
    """
    taken_over = 0
    for seed in range(120):
        rng = random.Random(f"{faults} {seed}")
        world = World(3, times=SHORT, replies=True, deletes=rng.random() < 0.7, off_ms=rng.choice([-1, 1, 7_200_000]))
        commits: list[int] = []
        if "lost replies" in faults:
            world.store.fails = lambda rng=rng: rng.random() < 0.03  # type: ignore[misc]
        fate = Fate(world, rng, f"{faults} {seed}")
        world.turns.run([lambda n=n: _live(world, n, rng, commits) for n in range(3)], fate.choose)  # type: ignore[misc]
        turns = [one for one, before in zip(commits, [-1, *commits], strict=False) if one != before]
        assert len(turns) == len(set(turns)), (seed, commits)
        taken_over += len(turns) > 1
    assert taken_over > 10
