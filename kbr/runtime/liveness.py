"""Which workers have sent nothing for too long. Pure: knows no process and no clock.

Only time in which the supervisor itself was running counts: a supervisor that was frozen, or that waited for something
else, has heard nobody, which says nothing about workers. So each round of its loop counts for a moment at most, however long
it took.
"""

from __future__ import annotations

__all__ = ["BEAT_S", "HANG_S", "LifeSigns", "beat_interval_s"]

#: Between a worker's beats.
BEAT_S = 2.0
#: Without a sign of life: far longer than a garbage collection, an import from a slow disk or a moment of swapping takes.
HANG_S = 60.0
#: What a round of the supervisor's loop counts for at most, seconds; it takes a tenth of one when nothing is the matter.
_MAX_ROUND_S = 1.0
#: The same as a part of the timeout, for those that are short: a pause is no tenth of a proof.
_MAX_ROUND_PART = 0.1
#: Beats in a timeout, at least.
_BEATS = 4


def beat_interval_s(timeout_s: float) -> float:
    """How often a worker has to give a sign of life."""
    return min(BEAT_S, timeout_s / _BEATS)


class LifeSigns:
    """When each worker was heard last.

    Args:
        timeout_s: silence beyond that is a hang.
        now_s: the supervisor's monotonic clock.
    """

    def __init__(self, timeout_s: float, now_s: float) -> None:
        if timeout_s <= 0:
            raise ValueError("a worker needs time to give a sign of life")
        self._timeout_s = timeout_s
        self._max_round_s = min(_MAX_ROUND_S, timeout_s * _MAX_ROUND_PART)
        self._now_s = now_s
        #: How long the supervisor was awake.
        self._awake_s = 0.0
        #: The same when the worker was heard.
        self._heard_s: dict[int, float] = {}

    def round_ended(self, now_s: float) -> None:
        """The supervisor's loop has come round: whatever had come was taken."""
        self._awake_s += min(max(0.0, now_s - self._now_s), self._max_round_s)
        self._now_s = now_s

    def heard(self, worker: int) -> None:
        """A worker said something, or was started."""
        self._heard_s[worker] = self._awake_s

    def forget(self, worker: int) -> None:
        """A worker is gone."""
        del self._heard_s[worker]

    def silent(self) -> list[int]:
        """Workers that gave no sign of life for the timeout."""
        return [worker for worker, heard_s in self._heard_s.items() if self._awake_s - heard_s >= self._timeout_s]
