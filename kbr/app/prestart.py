"""Worker processes made ready while the use case itself is still being configured, imported and planned.

The forkserver needs a tenth of a second for what workers import (three with S3), and the run about as long for its
own configuration, imports, connections and plan: both at once, on two cores. Imports nothing else of the use cases.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from kbr.runtime.executors.local import prestart
from kbr.storage import modules_of

if TYPE_CHECKING:  # it takes as long to import as all that workers need
    from kbr.config import Config

__all__ = ["prestart_workers", "worker_modules"]

#: What the workers of each verb import first.
_TASKS = {"backup": "kbr.backup.task", "restore": "kbr.restore.task"}
#: How much of a configuration file is looked through, bytes: no larger one is taken.
_LOOK_BYTES = 1024 * 1024
#: ``${VARIABLE}`` in it: what workers don't inherit, as it is a secret as a rule, and comes to them with their tasks.
_REFERENCE = re.compile(rb"\$\{([A-Za-z_][A-Za-z0-9_]*)(?=\}|:-)")
#: Words that a configuration for an S3 server can't do without (storage.backend, a URL).
_S3_WORDS = (b"s3", b"ceph")


def worker_modules(verb: str, config: Config) -> tuple[str, ...]:
    """What the verb's workers are going to import."""
    encryption = config.encryption
    is_sealed = bool(encryption.key or encryption.identity or encryption.recipients)
    return (*_modules(verb, config.storage.location), *(("kbr.format.crypto",) if is_sealed else ()))


def prestart_workers(verb: str, *, config_path: Path | None, settings: Iterable[str | None]) -> None:
    """Start the forkserver, which imports what the verb's workers are likely to need; returns at once.

    Whether that is S3 is guessed, as reading the configuration takes as long as the import. A wrong guess costs each
    worker its own import, or the forkserver one that nobody needs. The forkserver ends with this process, whether a
    worker was asked for or not.

    Args:
        config_path: the configuration file, if there is one; not judged here.
        settings: what else may name the storage: flags, variables.
    """
    texts = [setting.encode("utf-8", "replace") for setting in settings if setting]
    if config_path is not None:
        try:
            if not config_path.is_file():
                return  # a pipe can be read once only, and which variables are secrets has to be known before
            with config_path.open("rb") as file:
                texts.append(file.read(_LOOK_BYTES))
        except OSError:
            return  # who reads it for good tells what is wrong with it
    is_s3 = any(word in text.lower() for text in texts for word in _S3_WORDS)
    withheld = {name.decode("ascii") for text in texts for name in _REFERENCE.findall(text)}
    prestart(_modules(verb, "s3://" if is_s3 else ""), withheld=withheld)


def _modules(verb: str, location: str) -> tuple[str, ...]:
    return (_TASKS[verb], *modules_of(location))
