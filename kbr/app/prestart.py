"""Worker processes made ready while the use case itself is still being imported and planned.

The forkserver needs a tenth of a second for what workers import (three with S3), and the run about as long for
its own imports, its connections and its plan: both at once, on two cores. Imports nothing else of the use cases.
"""

from __future__ import annotations

from kbr.config import Config
from kbr.runtime.executors.local import prestart
from kbr.storage import modules_of

__all__ = ["prestart_workers", "worker_modules"]

#: What the workers of each verb import first.
_TASKS = {"backup": "kbr.backup.task", "restore": "kbr.restore.task"}


def worker_modules(verb: str, config: Config) -> tuple[str, ...]:
    """What the verb's workers are going to import."""
    return (_TASKS[verb], *modules_of(config.storage.location))


def prestart_workers(verb: str, config: Config) -> None:
    """Start the forkserver, which imports what the verb's workers need; returns at once.

    It ends with this process, whether a worker was asked for or not.
    """
    prestart(worker_modules(verb, config))
