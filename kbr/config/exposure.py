"""Files with secrets that every user of this machine may read, or with programs that every user may choose: warnings.

A mode counts only where the folders above let others through. Access control lists are not looked at.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path as FilePath
from typing import Any

from kbr.config.keys import all_keys
from kbr.config.model import Config

__all__ = ["exposure_warnings"]

#: Keys, and client properties, that name a file which holds a secret.
_PRIVATE_FILE = re.compile(r"(?:^|[._])(?:key|identity|keystore|keytab|command_config)(?:$|[._](?:location|file|pem)$)")


def exposure_warnings(config: Config, config_file: FilePath | None, secret_files: Iterable[str]) -> Iterator[str]:
    """A sentence for each file that should be its owner's alone and is not.

    Args:
        config_file: the configuration file; its commands are run.
        secret_files: that secrets were read from; the configuration file may be among them.
    """
    seen: set[str] = set()
    for path in [*secret_files, *_private_files(config)]:
        if path not in seen and _is_open_to_all(path, stat.S_IROTH):
            yield f"every user of this machine may read {path}, which holds a secret: chmod o= {path}"
        seen.add(path)
    if config_file is not None and _is_open_to_all(str(config_file), stat.S_IWOTH):
        yield f"every user of this machine may change the configuration file {config_file}: chmod o-w {config_file}"


def _private_files(config: Config) -> Iterator[str]:
    for key in all_keys():
        value: Any = config
        for step in key.path:
            value = getattr(value, step)
        if key.kind == "properties":
            yield from (str(entry) for name, entry in value.items() if _PRIVATE_FILE.search(name) and os.path.isabs(str(entry)))
        elif key.kind == "path" and isinstance(value, str) and _PRIVATE_FILE.search(key.path[-1]):
            yield value


def _is_open_to_all(path: str, wanted: int) -> bool:
    try:
        path = os.path.realpath(path)
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode) or not status.st_mode & wanted:
            return False
        while (folder := os.path.dirname(path)) != path:
            if not os.stat(folder).st_mode & stat.S_IXOTH:
                return False
            path = folder
    except (OSError, ValueError):
        return False  # who needs it says what is wrong with it
    return True
