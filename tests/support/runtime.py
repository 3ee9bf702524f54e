"""Runs of the supervisor for tests, and what the system says of its processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from kbr.errors import KbrError
from kbr.runtime.messages import TaskSpec
from kbr.runtime.supervisor import Retry, RunOutcome, Supervisor

ENTRY = "tests.unit.runtime.worker_verbs:work"


class RetryingCaller:
    """Retries each failed task until it had its attempts (t, t#2, t#3, ...), and notes what it was asked."""

    def __init__(self, *, attempts: int = 3, delay_s: float = 0.0) -> None:
        self._attempts = attempts
        self._delay_s = delay_s
        self.asked: list[tuple[str, KbrError]] = []

    def __call__(self, task: TaskSpec, error: KbrError) -> Sequence[Retry]:
        self.asked.append((task.task_id, error))
        name, _, attempt = task.task_id.partition("#")
        number = int(attempt or 1)
        if number == self._attempts:
            return ()
        again = TaskSpec(task_id=f"{name}#{number + 1}", payload=task.payload)
        return (Retry(task=again, delay_s=self._delay_s),)


def run_tasks(
    *payloads: object,
    on_failure: Callable[[TaskSpec, KbrError], Sequence[Retry]] | None,
    on_event: Callable[[Supervisor, str, object], None] = lambda *_: None,
    on_tick: Callable[[Supervisor], None] = lambda _: None,
    workers: int = 2,
    hang_timeout_s: float = 60.0,
) -> RunOutcome:
    """Run tasks "0", "1", ... of `worker_verbs`."""
    supervisor = Supervisor(entry=ENTRY, worker_count=workers, hang_timeout_s=hang_timeout_s)
    tasks = [TaskSpec(task_id=str(number), payload=payload) for number, payload in enumerate(payloads)]
    return supervisor.run(
        tasks,
        on_event=lambda task_id, event: on_event(supervisor, task_id, event),
        on_tick=lambda: on_tick(supervisor),
        on_failure=on_failure,
    )


def parent_of(pid: int) -> int:
    """The process that made it."""
    return int(_stat(Path(f"/proc/{pid}"))[1])


def is_alive(pid: int) -> bool:
    """Whether it may still do something."""
    try:
        return _stat(Path(f"/proc/{pid}"))[0] not in {"Z", "X"}
    except OSError:
        return False


def session_of(leader: int) -> set[int]:
    """All processes of a session."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if int(_stat(entry)[3]) == leader:
                    found.add(int(entry.name))
            except OSError:
                continue  # it has ended meanwhile
    return found


def _stat(process: Path) -> list[str]:
    """State, parent, group, session and so on."""
    return (process / "stat").read_text().rpartition(")")[2].split()
