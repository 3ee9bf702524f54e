"""Writes the manifest beside the fetching, now and then: one write at a time, and a small share of the time.

Before each one it is made sure that the topics are still those that were read. Errors come out where the run waits
for them; a store that does not answer holds nothing up.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from kbr.backup.state import BackupState
from kbr.errors import ClusterError, StoreFull, StoreUnavailable
from kbr.format.documents import Manifest
from kbr.kafka.cluster import Cluster
from kbr.model import RunStatus
from kbr.repository.publish import ManifestPublisher
from kbr.telemetry.logs import get_logger
from kbr.timing import Clock, Deadline

__all__ = ["STOP_GRACE_S", "Checkpoints"]

_log = get_logger("kbr.backup")

#: A checkpoint begins no sooner than so many times its cost after the last one: 2 % of the time, however old the
#: backup and large its manifest. The cost is that of writing the manifest, not of waiting for a cluster or store that
#: was away: an outage of seconds must not keep minutes of records out of the manifest.
COST_FACTOR = 50
#: The cheapest of the last so many writes is what one costs: one in an outage takes as long as that.
COSTS_KEPT = 2
#: How long a manifest of a run that was stopped may take from then on, seconds: then it is left to the next run,
#: which finds the segments without it.
STOPPED_PATIENCE_S = 30.0
#: How long a cluster that does not answer is asked for topics' ids once the run was stopped, seconds.
STOP_GRACE_S = 5.0
#: Who waits for a manifest looks so often whether the run was stopped, seconds.
_LOOK_S = 0.1


class Checkpoints:
    """One run's manifest writes. Not for several threads; state is only touched under ``lock``.

    Args:
        interval_s: least time between two.
        check_lock: raises Locked when the backup is another run's by now; called before every write.
        is_stopped: whether somebody wants the run to end: then a store that hangs is not waited for any more.
        on_listed: gets each manifest that was written while the run goes on, in the thread that wrote it.
    """

    def __init__(
        self,
        publisher: ManifestPublisher,
        state: BackupState,
        cluster: Cluster,
        *,
        interval_s: float,
        check_lock: Callable[[], None],
        is_stopped: Callable[[], bool],
        clock: Clock,
        on_listed: Callable[[Manifest], None] = lambda _manifest: None,
    ) -> None:
        self.lock = threading.RLock()
        #: The state's layout that the last manifest of this run has; None as long as there is none.
        self.listed_layout: int | None = None
        self._publisher = publisher
        self._state = state
        self._cluster = cluster
        self._interval_s = interval_s
        self._check_lock = check_lock
        self._is_stopped = is_stopped
        self._clock = clock
        self._on_listed = on_listed
        self._due_at = clock.monotonic() + interval_s
        #: Seconds of the last manifests that were written.
        self._costs_s: deque[float] = deque(maxlen=COSTS_KEPT)
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        #: Of the write under way, once the run was stopped.
        self._patience: Deadline | None = None
        self._is_unsure = False

    def follow(self, interval_s: float) -> None:
        """Keep another interval from now on."""
        if interval_s != self._interval_s:
            self._interval_s = interval_s
            self._due_at = min(self._due_at, self._clock.monotonic() + interval_s)

    def tick(self) -> None:
        """Begin one if it is due.

        Raises:
            Locked: the backup is another run's by now.
            KbrError: an earlier one could not be written.
        """
        self._raise_error()
        is_under_way = self._thread is not None and self._thread.is_alive()
        if is_under_way or self._clock.monotonic() < self._due_at:
            return
        self._begin(self._checkpoint)

    def write(self, status: RunStatus, *, hurry: bool = False) -> Manifest:
        """Write now what is confirmed, and wait for it.

        Args:
            status: of the run.
            hurry: not longer than STOPPED_PATIENCE_S, as if the run was stopped.

        Raises:
            Locked: the backup is another run's by now.
            StoreUnavailable: it could not be written in that time, or until the store's own deadline.
            KbrError: it could not be written.
        """
        self.settle(hurry=hurry)
        written: list[Manifest] = []
        self._begin(lambda: written.append(self._publish(status)))
        self.settle(hurry=hurry)
        return written[0]

    def settle(self, *, hurry: bool = False) -> None:
        """Wait for the one under way; raises as write()."""
        thread = self._thread
        if thread is not None:
            while thread.is_alive():
                if self._patience is None and (hurry or self._is_stopped()):
                    self._patience = Deadline(STOPPED_PATIENCE_S)
                thread.join(_LOOK_S)
                if self._patience is not None and self._patience.passed and thread.is_alive():
                    raise StoreUnavailable(
                        f"the manifest could not be written within {STOPPED_PATIENCE_S:.0f} s",
                        hint="run the same command again: the segments that it does not list are found by then",
                    )
            self._thread = None
        self._raise_error()

    def confirm(self, *, last: bool = False) -> bool:
        """Look whether the topics are still those that were read; what was committed before is listed from now on.

        Args:
            last: nobody looks again: a cluster that is gone for good must not keep its last records out of the
                manifest. Otherwise nothing is listed as long as the cluster can't say.

        Returns:
            False when the cluster could not be asked.
        """
        with self.lock:
            if not self._state.has_unconfirmed:
                return True
            self._state.begin_check()
            names = [name for name in self._state.topic_names if self._state.topic_id(name)]
        try:
            # one that is not the last is given up at a stop: the last one comes then
            ids = self._cluster.topic_ids(names, stop_grace_s=STOP_GRACE_S if last else 0.0) if names else {}
        except ClusterError as error:
            if not last and self._is_stopped():
                return False
            if last or not self._is_unsure:
                self._is_unsure = True
                _log.warning("could not check whether topics were made anew: %s", error)
            if not last:
                return False
            answered = False
            ids = {}
        else:
            answered = True
            self._is_unsure = False
        with self.lock:
            self._state.confirm(ids)
        return answered

    # -- inner ----------------------------------------------------------------------------

    def _begin(self, write: Callable[[], object]) -> None:
        def work() -> None:
            try:
                write()
            except BaseException as error:  # it is raised where the run waits
                self._error = error
            self._due_at = self._clock.monotonic() + max(self._interval_s, COST_FACTOR * self._cost_s())

        self._patience = None
        self._thread = threading.Thread(target=work, name="checkpoint", daemon=True)
        self._thread.start()

    def _cost_s(self) -> float:
        """What a manifest costs; 0 as long as too few were written to tell it from an outage."""
        return min(self._costs_s) if len(self._costs_s) == COSTS_KEPT else 0.0

    def _checkpoint(self) -> None:
        with self.lock:  # the run may be adding topics
            if not self._state.is_newer:
                return
        self.confirm()
        if not self._state.changed:
            return
        try:
            self._on_listed(self._publish(RunStatus.RUNNING))
        except (StoreUnavailable, StoreFull) as error:
            _log.warning("a checkpoint was left out: %s", error)

    def _publish(self, status: RunStatus) -> Manifest:
        begun = self._clock.monotonic()
        with self.lock:
            manifest = self._state.manifest(status, now_ms=self._clock.now_ms())
            layout = self._state.layout
            self._state.changed = False
        try:
            self._check_lock()
            self._publisher.publish(manifest)
            # a write that took long may have come after another run's: then this run must not go on
            self._check_lock()
        except BaseException:
            self._state.changed = True
            raise
        self.listed_layout = layout
        self._costs_s.append(self._clock.monotonic() - begun)
        return manifest

    def _raise_error(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error
