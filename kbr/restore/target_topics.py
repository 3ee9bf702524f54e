"""The target's topics around a restore: made, brought to what they should be, and given their configs in the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from kbr.errors import PreflightRefused, TopicMissing
from kbr.format.restore_state import RestoreStatus
from kbr.kafka.cluster import Cluster
from kbr.model import TopicSpec
from kbr.restore.journal import RestoreJournal, topics_noted
from kbr.restore.options import RestoreOptions
from kbr.restore.preflight import check_restore
from kbr.restore.prepare import Prepared
from kbr.restore.sending import SendOutcome
from kbr.timing import Backoff, Clock, Deadline

__all__ = ["TargetTopics"]


class TargetTopics:
    """One restore's.

    Args:
        cluster: the target.
        deadline_s: how long it may take to answer, seconds.
    """

    def __init__(self, cluster: Cluster, options: RestoreOptions, *, deadline_s: float, clock: Clock) -> None:
        self._cluster = cluster
        self._options = options
        self._deadline_s = deadline_s
        self._clock = clock

    def make(
        self, prepared: Prepared, journal: RestoreJournal, warnings: list[str]
    ) -> Mapping[str, TopicSpec]:
        """Make what is missing, and note where everything begins; all target topics.

        What is about to be made is noted before: killed in between, the next run finds an empty topic, and knows that
        it is to have its configs set in the end.
        """
        plan, bases = prepared.whole, prepared.bases
        self._change_topics(prepared)
        missing = list({topic.target.name: topic.target for topic in plan.topics if not topic.exists}.values())
        specs = dict(prepared.existing)
        if missing:
            journal.note(topics_noted(plan, prepared.known, specs, bases), RestoreStatus.RUNNING)
            warnings.extend(self._cluster.create_topics(missing))
            self._cluster.wait_for_leaders([spec.name for spec in missing])
            specs.update(self._describe_made([spec.name for spec in missing]))
            unwritable = self._cluster.topics_without([spec.name for spec in missing], "Write")
            if unwritable:
                raise self._cluster.right_error(unwritable, "Write", "writing topics, which are made, and empty")
        journal.note(topics_noted(plan, prepared.known, specs, bases), RestoreStatus.RUNNING)
        if missing and not prepared.facts.defaults:
            self._check_made(prepared, [spec.name for spec in missing])
        return specs

    def _change_topics(self, prepared: Prepared) -> None:
        """Existing topics become what they should be, as far as nothing is taken away."""
        for change in prepared.changes:
            if change.configs:
                self._cluster.set_topic_configs(change.topic, change.configs)
            if change.partition_count:
                self._cluster.add_partitions(change.topic, change.partition_count)

    def _describe_made(self, names: Sequence[str]) -> Mapping[str, TopicSpec]:
        """A broker may not have heard yet of a topic that another one has a leader for."""
        deadline = Deadline(self._deadline_s, clock=self._clock)
        for delay in Backoff(base_s=0.1, cap_s=2.0).delays():
            try:
                return self._cluster.describe_topics(names)
            except TopicMissing:
                if deadline.passed:
                    raise
                self._clock.sleep(delay)
        raise AssertionError("the delays are endless")

    def _check_made(self, prepared: Prepared, names: Sequence[str]) -> None:
        """Brokers that don't tell a new topic's configs beforehand tell them now."""
        configs = self._cluster.topic_configs(names, include_defaults=True)
        plan = replace(
            prepared.left,
            topics=tuple(replace(topic, exists=True) for topic in prepared.left.topics if topic.target.name in configs),
        )
        try:
            check_restore(plan, self._options, replace(prepared.facts, configs=configs))
        except PreflightRefused as error:
            raise PreflightRefused(
                f"{error.message}. The topics are made, and empty",
                hint="change their configs, or delete them and give others; then run the same command again",
                **error.context,
            ) from error

    def take_timestamps(self, prepared: Prepared) -> None:
        """A topic that got LogAppendTime back after an earlier run has to take records' own timestamps once more."""
        for topic in {one.target.topic for one in prepared.left.partitions if one.segments}:
            configs = prepared.facts.configs.get(topic, {})
            if topic in prepared.facts.restored_before and configs.get("message.timestamp.type") == "LogAppendTime":
                self._cluster.set_topic_configs(topic, {"message.timestamp.type": "CreateTime"})

    def set_configs(self, prepared: Prepared, journal: RestoreJournal, outcome: SendOutcome) -> None:
        """Topics that have all their records get the configs that would have changed them."""
        unfinished = {one.target.topic for one in prepared.whole.partitions if one.source in outcome.failures}
        unfinished |= {result.target.topic for result in outcome.results.values() if not result.complete}
        done = {topic.target.name for topic in prepared.whole.topics} - unfinished
        for topic in () if journal.state is None else journal.state.topics:
            if topic.configs_afterwards and topic.name in done:
                self._cluster.set_topic_configs(topic.name, topic.configs_afterwards)
