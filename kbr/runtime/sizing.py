"""How many worker processes and threads a run gets, and how much memory each."""

from __future__ import annotations

import os
from dataclasses import dataclass

from kbr.errors import ConfigError

__all__ = ["RunSize", "size_run", "usable_cores"]

_MIB = 1 << 20
#: What the processes take beside the records' budget, proportional set sizes: supervisor and forkserver together, and
#: each worker (interpreter, librdkafka, threads' stacks). True: with an S3 store, which needs much more code.
BASE_BYTES = {False: 72 * _MIB, True: 120 * _MIB}
BACKUP_WORKER_BYTES = {False: 32 * _MIB, True: 48 * _MIB}
#: A restore's worker has more that does not follow its budget: ranges being read and unpacked, requests on their way and
#: their compressed copies, the allocator's arenas of a dozen threads. 1 M x 1 KiB with budgets of 24, 88, 152 and 408 MiB
#: took 174, 193, 276 and 475 MiB in all.
RESTORE_WORKER_BYTES = {False: 88 * _MIB, True: 104 * _MIB}
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
    *,
    cores: int,
    partitions: int,
    workers: int,
    threads: int,
    memory_limit: int | None,
    worker_bytes: int,
    base_bytes: int,
) -> RunSize:
    """Fit a run to the machine.

    Args:
        cores: of the machine.
        partitions: that have something to do: never more workers than that.
        workers, threads: what was asked for; 0 is as many as there are cores to use.
        memory_limit: of all processes together, bytes; with no number of workers asked for, there are as many as it
            allows. None is DEFAULT_RECORDS_BYTES for each.
        worker_bytes, base_bytes: what a worker, and all else, takes beside records.

    Raises:
        ConfigError: the limit is too small for so many workers.
    """
    count = max(1, min(workers or cores, partitions))
    if memory_limit is None:
        budget = DEFAULT_RECORDS_BYTES
    else:
        least = worker_bytes + LEAST_RECORDS_BYTES
        available = memory_limit - base_bytes
        if not workers:
            count = max(1, min(count, available // least))
        if available < count * least:
            needed = (base_bytes + count * least) // _MIB
            raise ConfigError(
                f"memory_limit of {memory_limit // _MIB} MiB is too little for {count} worker{'s' * (count > 1)}: "
                f"{needed} MiB are needed",
                hint="raise memory_limit, or lower workers",
                memory_limit=memory_limit,
            )
        budget = min(DEFAULT_RECORDS_BYTES * 8, available // count - worker_bytes)
    return RunSize(workers=count, threads=threads or max(1, -(-cores // count)), records_bytes=budget)
