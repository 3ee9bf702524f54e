"""Keeps a restore's notes in the backup's folder, or goes on without where the store may only be read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from kbr import __version__
from kbr.errors import AccessDenied, StorageError
from kbr.format.restore_state import RestoredTopic, RestoreState, RestoreStatus
from kbr.model import TopicPartition, TopicSpec
from kbr.repository.offset_maps import is_offset_map_there
from kbr.repository.restore_states import load_state, save_state
from kbr.restore.plan import RestorePlan, TopicPlan
from kbr.storage import ObjectStore
from kbr.timing import Clock

__all__ = ["RestoreJournal", "topics_noted"]

_WITHOUT = (
    "if this restore is interrupted, the same command has to compare everything in the target with the backup before it "
    "goes on (with --append it can't know where it began, and would add the records once more)"
)


def topics_noted(
    plan: RestorePlan,
    known: Mapping[str, RestoredTopic],
    specs: Mapping[str, TopicSpec],
    bases: Mapping[TopicPartition, int],
) -> tuple[RestoredTopic, ...]:
    """What is to be known of the plan's target topics.

    Args:
        known: topics of an earlier run that are still the same ones.
        specs: the target's topics; those that are not made yet are absent.
        bases: by target partition.
    """
    # several sources may go to one topic
    noted = {topic.target.name: _noted(topic, plan, known, specs, bases) for topic in plan.topics}
    return tuple(noted[name] for name in sorted(noted))


def _noted(
    topic: TopicPlan,
    plan: RestorePlan,
    known: Mapping[str, RestoredTopic],
    specs: Mapping[str, TopicSpec],
    bases: Mapping[TopicPartition, int],
) -> RestoredTopic:
    name = topic.target.name
    before = known.get(name)
    spec = specs.get(name)
    targets = {one.target.partition for one in plan.partitions if one.target.topic == name}
    count = max(targets) + 1
    return RestoredTopic(
        name=name,
        topic_id="" if spec is None else spec.topic_id,
        made=not topic.exists or (before is not None and before.made),
        configs_afterwards=topic.configs_afterwards if before is None else before.configs_afterwards,
        bases=tuple(
            bases.get(TopicPartition(name, number)) if spec is not None and number in targets else None
            for number in range(count)
        ),
        source_ends={
            source: end
            for one in {id(one.sources): one for one in plan.partitions if one.target.topic == name}.values()
            for source, end in zip(one.sources, one.source_ends, strict=True)
        },
    )


class RestoreJournal:
    """The notes of one restore.

    Args:
        append: without notes, records would be added a second time.
    """

    def __init__(
        self, store: ObjectStore, backup_id: str, restore_id: str, cluster_id: str, *, append: bool, clock: Clock
    ) -> None:
        self._store = store
        self._backup_id = backup_id
        self.restore_id = restore_id
        self.cluster_id = cluster_id
        self._append = append
        self._clock = clock
        self._state: RestoreState | None = None
        self._writable = True
        #: What the user has to know about the notes.
        self.warnings: list[str] = []

    @property
    def state(self) -> RestoreState | None:
        """As it was loaded, or last noted."""
        return self._state

    @property
    def is_writable(self) -> bool:
        """False once the store has refused a note."""
        return self._writable

    def load(self) -> RestoreState | None:
        """What an earlier run noted.

        Raises:
            RestoreStateUnreadable: it is there, and can't be read.
            StorageError: the store failed.
        """
        try:
            self._state = load_state(self._store, self._backup_id, self.restore_id)
        except AccessDenied as error:
            # stores without the right to list answer so for objects that are not there
            if self._append:
                raise
            self.warnings.append(f"whether an earlier run of this restore has noted anything can't be told: {error}")
        return self._state

    def note(self, topics: Sequence[RestoredTopic], status: RestoreStatus) -> None:
        """Write what is to be known; without the right to write, a warning takes its place.

        Raises:
            StoreUnavailable: the store does not answer.
        """
        before = self._state
        now_ms = self._now_ms()
        self._state = RestoreState(
            kbr_version=__version__,
            backup_id=self._backup_id,
            restore_id=self.restore_id,
            cluster_id=self.cluster_id,
            status=status,
            created_at_ms=now_ms if before is None or before.status is RestoreStatus.COMPLETE else before.created_at_ms,
            updated_at_ms=now_ms,
            topics=tuple(topics),
        )
        self._save()

    def complete(self, *, is_mapped: bool) -> None:
        """All is done.

        Args:
            is_mapped: this run has written an offset mapping. If not, one from before it lacks what this run has sent: it
                is older than the restore then, and does not count.
        """
        if self._state is None or self._state.status is RestoreStatus.COMPLETE:
            return
        now_ms = self._now_ms()
        is_outdated = not is_mapped and is_offset_map_there(self._store, self._backup_id, self.restore_id)
        self._state = replace(
            self._state,
            status=RestoreStatus.COMPLETE,
            created_at_ms=now_ms if is_outdated else self._state.created_at_ms,
            updated_at_ms=now_ms,
        )
        self._save()

    def is_as_noted(self) -> bool:
        """Whether no other run has noted anything since.

        Raises:
            StoreUnavailable: the store does not answer.
        """
        return load_state(self._store, self._backup_id, self.restore_id) == self._state

    def _now_ms(self) -> int:
        """Later than all that was noted before, whatever a clock says: by it a mapping is known to be of an earlier run."""
        return max(self._clock.now_ms(), 0 if self._state is None else self._state.updated_at_ms + 1)

    def _save(self) -> None:
        if not self._writable or self._state is None:
            return
        try:
            save_state(self._store, self._state)
        except StorageError as error:
            if error.retriable:
                raise
            self._give_up(error)

    def _give_up(self, error: StorageError) -> None:
        self._writable = False
        self.warnings.append(f"where this restore stands can't be noted in the backup ({error}): {_WITHOUT}")
