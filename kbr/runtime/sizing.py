"""How many worker processes and threads a run gets, and how much memory each."""

from __future__ import annotations

import os
from dataclasses import dataclass

from kbr.errors import ConfigError

__all__ = ["RunSize", "size_run", "usable_cores"]

_MIB = 1 << 20
#: What the processes take before any record is on its way, proportional set sizes: supervisor and forkserver
#: together, and each worker (interpreter, librdkafka, threads' stacks). With an S3 store, which needs much more code.
BASE_BYTES = {False: 72 * _MIB, True: 120 * _MIB}
WORKER_BYTES = {False: 32 * _MIB, True: 48 * _MIB}
#: A worker's budget for records where no limit is given. Larger ones were not faster (docs/performance.md).
DEFAULT_RECORDS_BYTES = 128 * _MIB
#: Below this a worker can't hold a few blocks and a fetch answer.
LEAST_RECORDS_BYTES = 16 * _MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSize:
    """A run's measures.

    Attributes:
        workers: processes.
        threads: of each, that compress.
        records_bytes: budget of each for records on their way.
    """

    workers: int
    threads: int
    records_bytes: int


def usable_cores() -> int:
    """Cores that this process may run on: containers and taskset leave fewer than the machine has."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def size_run(
    *, cores: int, partitions: int, workers: int, threads: int, memory_limit: int | None, remote_store: bool
) -> RunSize:
    """Fit a run to the machine.

    Args:
        cores: of the machine.
        partitions: that have something to do: never more workers than that.
        workers, threads: what was asked for; 0 is as many as there are cores to use.
        memory_limit: of all processes together, bytes; with no number of workers asked for, there are as many as it
            allows. None is DEFAULT_RECORDS_BYTES for each.
        remote_store: backups lie in an object store.

    Raises:
        ConfigError: the limit is too small for so many workers.
    """
    count = max(1, min(workers or cores, partitions))
    if memory_limit is None:
        budget = DEFAULT_RECORDS_BYTES
    else:
        least = WORKER_BYTES[remote_store] + LEAST_RECORDS_BYTES
        available = memory_limit - BASE_BYTES[remote_store]
        if not workers:
            count = max(1, min(count, available // least))
        if available < count * least:
            needed = (BASE_BYTES[remote_store] + count * least) // _MIB
            raise ConfigError(
                f"memory_limit of {memory_limit // _MIB} MiB is too little for {count} workers: they need {needed} MiB",
                hint="raise memory_limit, or lower workers",
                memory_limit=memory_limit,
            )
        budget = min(DEFAULT_RECORDS_BYTES * 8, available // count - WORKER_BYTES[remote_store])
    return RunSize(workers=count, threads=threads or max(1, -(-cores // count)), records_bytes=budget)
