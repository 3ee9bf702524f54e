"""How large a run is: by the machine, by what was asked for, and never above its memory limit."""

from __future__ import annotations

import pytest

from kbr.errors import ConfigError
from kbr.runtime.sizing import (
    BACKUP_WORKER_BYTES,
    BASE_BYTES,
    DEFAULT_RECORDS_BYTES,
    LEAST_RECORDS_BYTES,
    RESTORE_WORKER_BYTES,
    RunSize,
    size_run,
    usable_cores,
)

GIB = 1 << 30


def _size(**changes: object) -> RunSize:
    asked: dict[str, object] = {
        "cores": 8, "partitions": 100, "workers": 0, "threads": 0, "memory_limit": None,
        "worker_bytes": BACKUP_WORKER_BYTES[False], "base_bytes": BASE_BYTES[False],
    }  # fmt: skip
    return size_run(**{**asked, **changes})  # type: ignore[arg-type]


def test_every_core_gets_a_worker_and_one_partition_gets_every_core() -> None:
    assert _size() == RunSize(workers=8, threads=1, records_bytes=DEFAULT_RECORDS_BYTES)
    assert _size(partitions=1) == RunSize(workers=1, threads=8, records_bytes=DEFAULT_RECORDS_BYTES)
    assert _size(partitions=3) == RunSize(workers=3, threads=3, records_bytes=DEFAULT_RECORDS_BYTES)


def test_what_is_asked_for_is_done() -> None:
    assert _size(workers=2, threads=1) == RunSize(workers=2, threads=1, records_bytes=DEFAULT_RECORDS_BYTES)
    assert _size(workers=200).workers == 100  # no more than there are partitions


@pytest.mark.parametrize("remote", [False, True])
@pytest.mark.parametrize("worker", [BACKUP_WORKER_BYTES, RESTORE_WORKER_BYTES])
@pytest.mark.parametrize("limit", [GIB // 4, GIB, 16 * GIB])
@pytest.mark.parametrize("cores", [1, 2, 64])
def test_all_processes_together_stay_within_the_limit(
    remote: bool, worker: dict[bool, int], limit: int, cores: int
) -> None:
    found = _size(cores=cores, memory_limit=limit, worker_bytes=worker[remote], base_bytes=BASE_BYTES[remote])
    assert BASE_BYTES[remote] + found.workers * (worker[remote] + found.records_bytes) <= limit
    assert found.records_bytes >= LEAST_RECORDS_BYTES
    assert found.workers >= 1


def test_a_limit_that_the_asked_workers_do_not_fit_into_is_refused_with_the_number_that_is_needed() -> None:
    with pytest.raises(ConfigError, match="8 workers: 456 MiB are needed"):
        _size(workers=8, memory_limit=GIB // 4)
    assert _size(workers=8, memory_limit=456 << 20).workers == 8


def test_cores_are_those_that_this_process_may_use() -> None:
    assert 1 <= usable_cores()
