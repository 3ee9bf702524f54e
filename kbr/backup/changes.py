"""Options that change while a continuous backup runs: heard of at once, followed when the cluster has what they name.

Knows nothing of where they come from, nor of passes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from kbr.backup.options import BackupOptions
from kbr.backup.survey import check_selection
from kbr.errors import ClusterUnavailable, KbrError
from kbr.kafka.cluster import Cluster
from kbr.telemetry.logs import get_logger

__all__ = ["OptionChanges"]

_log = get_logger("kbr.backup")

#: Options whose change a pass that is going on can follow.
_WITHOUT_PASS = ("bytes_per_s", "records_per_s", "checkpoint_interval_s")


class OptionChanges:
    """One run's options, as they are now.

    Args:
        options: to begin with.
        cluster: is asked whether it has the topics that changed options name.
        reread: what the options are to be from now on, or None when nobody asked for a change.
        on_options: gets options that were reread, when they hold.
    """

    def __init__(
        self,
        options: BackupOptions,
        cluster: Cluster,
        reread: Callable[[], BackupOptions | None],
        on_options: Callable[[BackupOptions], None],
    ) -> None:
        self.options = options
        self._cluster = cluster
        self._reread = reread
        self._on_options = on_options
        #: What was asked for and does not hold yet.
        self._wanted: BackupOptions | None = None

    def hear(self) -> bool:
        """Whether somebody has asked just now for options that take another pass; others are followed at once."""
        found = self._reread()
        if found is None:
            return False
        self._wanted = None
        if replace(found, **{name: getattr(self.options, name) for name in _WITHOUT_PASS}) == self.options:
            self._hold(found)
            return False
        self._wanted = found
        return True

    def follow(self) -> None:
        """Go by what was asked for, if the cluster has the topics that it names; else everything stays.

        Raises:
            ClusterUnavailable: it can't be asked now; the next call tries again.
        """
        if self._wanted is None:
            return
        try:
            check_selection(self._cluster, self._wanted, has_backup=lambda: True)
        except ClusterUnavailable:
            raise
        except KbrError as error:
            self._wanted = None
            _log.error("the configuration that was read again is not followed, everything stays as it was: %s", error)
            return
        wanted, self._wanted = self._wanted, None
        self._hold(wanted)

    def _hold(self, options: BackupOptions) -> None:
        self.options = options
        self._on_options(options)
