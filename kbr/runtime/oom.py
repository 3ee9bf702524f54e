"""Whether the kernel killed for want of memory: what the control group of this process says (Linux, cgroup v2).

Source: memory.events in the kernel's Documentation/admin-guide/cgroup-v2.rst.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["OomKills", "memory_events_file"]

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")


def memory_events_file(own_cgroup: Path = _OWN_CGROUP, cgroups: Path = _CGROUPS) -> Path | None:
    """Where this process's control group counts; None where there is no cgroup v2."""
    try:
        lines = own_cgroup.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        # "0::/path" is version 2's; in a container the path is the container's own root
        if line.startswith("0::/"):
            return cgroups / line.removeprefix("0::/") / "memory.events"
    return None


class OomKills:
    """Kills that were counted since this object was made, each told once.

    The count is the control group's: of this run's processes and of others that share it. So it is asked only when
    a worker was ended by SIGKILL.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._known = self._read()

    def take(self) -> bool:
        """Whether there was one that was not yet told; False where nobody counts."""
        if self._read() <= self._known:
            return False
        self._known += 1
        return True

    def _read(self) -> int:
        try:
            lines = self._path.read_text().splitlines() if self._path is not None else []
        except OSError:
            return 0  # the root group, version 1, or no right: nobody counts
        for line in lines:
            name, _, count = line.partition(" ")
            if name == "oom_kill" and count.isdecimal():
                return int(count)
        return 0
