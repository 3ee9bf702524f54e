"""What the supervisor's process does with worker events: progress to the display, messages to the log."""

from __future__ import annotations

from collections.abc import Mapping

from kbr.telemetry.events import ClientMessage, PartitionFailed, ProgressEvent
from kbr.telemetry.logs import RepeatFolder, get_logger
from kbr.telemetry.progress import ProgressModel, ProgressSink, ProgressSnapshot
from kbr.timing import SYSTEM_CLOCK, Clock

__all__ = ["RunDisplay"]

_log = get_logger("kbr.run")


class RunDisplay:
    """One run's events, folded and shown.

    Args:
        sink: shows progress, or None.
    """

    def __init__(self, sink: ProgressSink | None, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._sink = sink
        self._clock = clock
        self._model: ProgressModel | None = None
        self._folder = RepeatFolder(clock=clock)
        #: By partition, what was last told: a continuous backup tries again for months.
        self._failed: dict[tuple[str, int], str] = {}

    def start(self, verb: str, totals: Mapping[str, int]) -> None:
        """The plan, or another pass's, is known: records per topic, at most."""
        if self._model is not None:
            self._model.expect(totals)
            return
        self._model = ProgressModel(verb=verb, totals=totals, clock=self._clock)
        if self._sink is not None:
            self._sink.start(self._model)

    def take(self, event: object) -> None:
        """One event of a worker."""
        if isinstance(event, ProgressEvent):
            if self._model is not None:
                self._model.add(event)
        elif isinstance(event, ClientMessage):
            for line in self._folder.take(event):
                _log.log(line.level, line.text)
        elif isinstance(event, PartitionFailed):
            self._tell_failure(event)

    def _tell_failure(self, event: PartitionFailed) -> None:
        """Not again what was told of the partition before: a try that gets it no further is no news."""
        place, text = (event.topic, event.partition), str(event.error)
        if self._failed.get(place) == text:
            return
        self._failed[place] = text
        hint = f" ({event.error.hint})" if event.error.hint else ""
        _log.error("%s[%s] failed: %s%s", event.topic, event.partition, text, hint)

    def tick(self) -> None:
        """Now and then: show."""
        for line in self._folder.due():
            _log.log(line.level, line.text)
        if self._sink is not None and self._model is not None:
            self._sink.update(self._model.snapshot())

    def snapshot(self) -> ProgressSnapshot | None:
        """How far it is; None before the plan is known. Any thread may ask."""
        model = self._model
        return None if model is None else model.snapshot()

    def close(self) -> None:
        """The run is over."""
        if self._sink is not None and self._model is not None:
            self._sink.update(self._model.snapshot())
            self._sink.close()
        self._model = None
