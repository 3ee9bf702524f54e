"""Programs that take turns step by step in an order that a test chooses: every order of a few, or random ones."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

__all__ = ["Interleaving", "every_order"]

#: More steps than any program that ends takes.
_MAX_STEPS = 20_000


class Interleaving:
    """Runs programs in threads of which one at a time goes on, from one pause() to its next."""

    def __init__(self) -> None:
        self._numbers = threading.local()
        self._go: list[threading.Semaphore] = []
        self._back = threading.Semaphore(0)
        self._sleeping: set[int] = set()
        self._over: set[int] = set()
        self._errors: list[BaseException] = []
        self._given_up = False

    def pause(self, *, sleeping: bool = False) -> None:
        """Called by a program: others may go on here. One that sleeps goes on when another has, or none can."""
        number = getattr(self._numbers, "value", None)
        if number is None:
            return  # the test itself
        if sleeping:
            self._sleeping.add(number)
        self._back.release()
        self._go[number].acquire()
        if self._given_up:
            raise SystemExit

    def run(self, programs: list[Callable[[], None]], choose: Callable[[list[int]], int]) -> None:
        """Run all to their ends; the first error is raised. ``choose`` picks one of the numbers of those that can go on."""
        self._go = [threading.Semaphore(0) for _ in programs]
        threads = [
            threading.Thread(target=self._program, args=(number, program), daemon=True)
            for number, program in enumerate(programs)
        ]
        for thread in threads:
            thread.start()
        steps = 0
        while len(self._over) < len(programs) and not self._errors:
            alive = [number for number in range(len(programs)) if number not in self._over]
            awake = [number for number in alive if number not in self._sleeping]
            if not awake:
                self._sleeping.clear()
                awake = alive
            number = choose(awake)
            self._sleeping.intersection_update({number})
            self._sleeping.discard(number)
            self._go[number].release()
            self._back.acquire()
            steps += 1
            assert steps < _MAX_STEPS, "they never come to an end"
        self._given_up = True
        for semaphore in self._go:
            semaphore.release()
        for thread in threads:
            thread.join(10)
        if self._errors:
            raise self._errors[0]

    def _program(self, number: int, program: Callable[[], None]) -> None:
        self._numbers.value = number
        self._go[number].acquire()
        try:
            if not self._given_up:
                program()
        except BaseException as error:
            if not self._given_up:
                self._errors.append(error)
        finally:
            self._over.add(number)
            self._back.release()


def every_order() -> Iterator[Callable[[list[int]], int]]:
    """A ``choose`` for each order there is: for programs that do the same when they are run in the same order."""
    prefix: list[int] = []
    while True:
        taken: list[tuple[int, int]] = []

        def choose(numbers: list[int], taken: list[tuple[int, int]] = taken, prefix: list[int] = prefix) -> int:
            index = prefix[len(taken)] if len(taken) < len(prefix) else 0
            taken.append((index, len(numbers)))
            return numbers[index]

        yield choose
        while taken and taken[-1][0] + 1 >= taken[-1][1]:
            taken.pop()
        if not taken:
            return
        prefix = [index for index, _count in taken]
        prefix[-1] += 1
