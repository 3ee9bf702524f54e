"""All that a restore finds out before it writes anything: plan, target, what is there already, what stands against it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from kbr.errors import (
    AuthenticationFailed,
    AuthorizationFailed,
    ClusterError,
    ClusterUnavailable,
    KbrError,
    PreflightRefused,
    TopicNotEmpty,
)
from kbr.format.documents import Manifest, TopicEntry
from kbr.format.restore_state import RestoredTopic, RestoreStatus
from kbr.kafka.cluster import Cluster, PartitionOffsets
from kbr.model import TopicPartition, TopicSpec
from kbr.restore.check import PartitionStart, TargetCheck
from kbr.restore.choice import choose_topics, refuse_brokers_own
from kbr.restore.existing import TopicChange, changed_facts, changes_of, check_existing
from kbr.restore.journal import RestoreJournal
from kbr.restore.names import target_names
from kbr.restore.options import RestoreOptions
from kbr.restore.plan import RestorePlan, TopicPlan, plan_restore
from kbr.restore.preflight import TargetFacts, check_places, check_restore, effective_configs
from kbr.restore.presence import check_presence
from kbr.restore.settling import Settler
from kbr.restore.spreading import grown_since
from kbr.restore.standing import known_topics, stand
from kbr.restore.waiting import StopFlag
from kbr.restore.zero_timestamps import refuse_zero_timestamps
from kbr.storage import ObjectStore
from kbr.timing import Clock

__all__ = ["Preparation", "Prepared"]

#: Batches stay this far below the smallest max.message.bytes of the target topics.
MAX_BATCH_BYTES = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What a run knows when it begins to write.

    Attributes:
        whole: the plan as if nothing was there.
        left: what is left of it.
        facts: of the target.
        existing: target topics that exist.
        known: what an earlier run noted of them, where they are still the same.
        status: of the earlier run; None when there was none.
        starts: where each partition begins, by target.
        batch_bytes: the largest batch that every target topic takes.
        absent: why partitions end early, by source: segments that can't be read.
        changes: what is to be done to existing target topics.
    """

    whole: RestorePlan
    left: RestorePlan
    facts: TargetFacts
    existing: Mapping[str, TopicSpec]
    known: Mapping[str, RestoredTopic]
    status: RestoreStatus | None
    starts: Mapping[TopicPartition, PartitionStart]
    batch_bytes: int
    absent: Mapping[TopicPartition, KbrError]
    warnings: tuple[str, ...]
    changes: tuple[TopicChange, ...] = ()

    @property
    def bases(self) -> dict[TopicPartition, int]:
        """Target offset of each plan's first record."""
        return {target: start.target_offset - start.kept for target, start in self.starts.items()}

    @property
    def gone(self) -> dict[TopicPartition, int]:
        """Records of an earlier run that were removed from the target's beginning, by source, where some were."""
        starts = self.starts
        return {one.source: starts[one.target].gone for one in self.whole.partitions if starts[one.target].gone}

    def may_have_holes(self, topic: TopicPlan) -> bool:
        """Whether a target topic's log may have lost records between others."""
        return "compact" in effective_configs(topic, self.facts).get("cleanup.policy", "")

    @property
    def nothing_to_do(self) -> bool:
        """An earlier run has done it all, and nothing has come since."""
        there = all(topic.exists for topic in self.whole.topics)
        return self.status is RestoreStatus.COMPLETE and there and not self.left.segments and not self.absent


class Preparation:
    """Prepares one run.

    Args:
        check: makes the comparison, given which topics' logs may have holes.
    """

    def __init__(
        self,
        options: RestoreOptions,
        *,
        cluster: Cluster,
        store: ObjectStore,
        journal: RestoreJournal,
        check: Callable[[RestorePlan, Callable[[str], bool]], TargetCheck],
        stop: StopFlag,
        clock: Clock,
    ) -> None:
        self._options = options
        self._cluster = cluster
        self._store = store
        self._journal = journal
        self._check = check
        self._stop = stop
        self._clock = clock

    def prepare(self, manifest: Manifest, *, dry_run: bool) -> Prepared:
        """Look at everything; writes nothing.

        Raises:
            PreflightRefused: something stands against it (TopicNotEmpty: records that aren't this restore's).
            KbrError: backup, notes or target can't be read.
        """
        options = self._options
        chosen, existing, left_out = self._choose(manifest)
        plan = plan_restore(manifest, chosen, options, existing)
        state = self._journal.load()
        status = None if state is None else state.status
        facts = self._facts(plan, existing)
        known = known_topics(state, existing, facts.offsets)
        bounds = {name: topic.source_ends for name, topic in known.items() if topic.source_ends}
        if bounds and not (options.append and status is RestoreStatus.COMPLETE):
            plan = plan_restore(manifest, chosen, options, existing, bounds)
            left_out = [*left_out, *grown_since(manifest, plan.partitions)]
        facts = replace(
            facts,
            restored_before=frozenset(
                name for name, topic in known.items() if "message.timestamp.type" in topic.configs_afterwards
            ),
        )
        own = {name for name, topic in known.items() if topic.made}
        broker_count = max(1, len(self._cluster.info().brokers)) if existing else 1
        check_existing(plan, options, facts, own=own, broker_count=broker_count)
        check_places(plan, options, facts)
        changes = changes_of(plan, options, facts, broker_count=broker_count)
        unread = [
            f"{name}: its configs can't be read (the user may lack DescribeConfigs on the topic): retention, cleanup, the kind of "
            "timestamps and the largest batch were not checked"
            for name in sorted(existing)
            if name not in facts.configs
        ]
        facts = changed_facts(facts, changes)
        others = self._look_at_others(plan, existing, known)
        starts = self._starts(plan, facts, known, status, dry_run=dry_run)
        left = replace(
            plan,
            partitions=tuple(
                one.going_on(
                    offset_from=(start := starts[one.target]).offset_from,
                    target_offset=start.target_offset,
                    source=start.source,
                    is_all=start.is_all,
                )
                for one in plan.partitions
            ),
        )
        warnings = check_restore(left, options, facts)
        notes = self._check_new_topics(plan)
        left, absent = check_presence(self._store, left, allow_incomplete=options.allow_incomplete)
        if options.zero_timestamp_as == 0:
            refuse_zero_timestamps(self._store, left, max_block_bytes=options.max_block_bytes)
        return Prepared(
            whole=plan,
            left=left,
            facts=facts,
            existing=existing,
            known=known,
            status=status,
            starts=starts,
            batch_bytes=_batch_bytes(left, facts),
            absent=absent,
            changes=tuple(changes),
            warnings=(*plan.warnings, *left_out, *unread, *(note for one in changes for note in one.notes), *others, *warnings, *(notes if dry_run else ())),
        )

    def _choose(self, manifest: Manifest) -> tuple[Sequence[TopicEntry], Mapping[str, TopicSpec], Sequence[str]]:
        options = self._options
        names, left_out = choose_topics(manifest.topics, options.include, options.exclude)
        chosen: list[TopicEntry] = [topic for topic in manifest.topics if topic.name in names]
        targets = set(
            target_names(
                [topic.name for topic in chosen],
                options.topic_mapping,
                prefix=options.topic_prefix,
                suffix=options.topic_suffix,
            ).values()
        )
        refuse_brokers_own(targets)
        present = sorted(targets & {name for name, _internal, _count in self._cluster.topics()})
        # one that is there, and may not be seen, would be taken for one that is to be made
        unwritable = self._cluster.topics_without(sorted(targets), "Write")
        if unwritable:
            raise self._cluster.right_error(unwritable, "Write", "writing topics")
        existing: Mapping[str, TopicSpec] = self._cluster.describe_topics(present) if present else {}
        return chosen, existing, left_out

    def _facts(self, plan: RestorePlan, existing: Mapping[str, TopicSpec]) -> TargetFacts:
        targets = [
            one.target
            for one in plan.partitions
            if one.target.topic in existing and one.target.partition < existing[one.target.topic].partition_count
        ]
        present = sorted(existing)
        return TargetFacts(
            offsets=self._cluster.offsets(targets, "read_uncommitted"),
            configs=self._cluster.topic_configs(present, include_defaults=True) if present else {},
            defaults={}
            if len(present) == len(plan.topics) and self._options.existing_topics != "apply"
            else self._cluster.new_topic_configs(),
            now_ms=self._clock.now_ms(),
        )

    def _check_new_topics(self, plan: RestorePlan) -> list[str]:
        """What the cluster says to the topics that are to be made; making them says it again.

        Raises:
            PreflightRefused: it would not make them.
            KbrError: it does not answer, or a right is missing.
        """
        missing = {topic.target.name: topic.target for topic in plan.topics if not topic.exists}
        if not missing:
            return []
        try:
            return self._cluster.check_new_topics(list(missing.values()))
        except (AuthenticationFailed, AuthorizationFailed, ClusterUnavailable):
            raise
        except ClusterError as error:
            raise PreflightRefused(
                f"the target would not make the topics: {error.message}. Nothing was made",
                hint=error.hint or "change them with --topic-config NAME=VALUE, or make them yourself",
                **error.context,
            ) from error

    def _look_at_others(
        self, plan: RestorePlan, existing: Mapping[str, TopicSpec], known: Mapping[str, RestoredTopic]
    ) -> list[str]:
        """Partitions of target topics that the restore does not write to: they should be as empty as the others.

        Raises:
            TopicNotEmpty: records are there, of a topic that no earlier run has restored to.
        """
        planned = {one.target for one in plan.partitions}
        others = [
            TopicPartition(name, number)
            for name, spec in existing.items()
            for number in range(spec.partition_count)
            if TopicPartition(name, number) not in planned
        ]
        if not others:
            return []
        if not self._options.append:
            asked = [one for one in others if one.topic not in known]
            for one, found in self._cluster.offsets(asked, "read_uncommitted").items():
                if isinstance(found, PartitionOffsets) and found.high_watermark > found.log_start:
                    raise TopicNotEmpty(
                        f"target {one} holds records (offsets {found.log_start} to {found.high_watermark - 1}), and the "
                        "restore has none for that partition",
                        hint="restore to another topic with --topic-map, or to this one as it is with --append",
                        topic=one.topic,
                        partition=one.partition,
                    )
        names = sorted({one.topic for one in others})
        return [
            f"{name} has {existing[name].partition_count} partitions, and the restore has records for "
            f"{sum(one.topic == name for one in planned)}: producers will send keys to other partitions than before"
            for name in names
        ]

    def _starts(
        self,
        plan: RestorePlan,
        facts: TargetFacts,
        known: Mapping[str, RestoredTopic],
        status: RestoreStatus | None,
        *,
        dry_run: bool,
    ) -> dict[TopicPartition, PartitionStart]:
        append = self._options.append
        standings = stand(plan, known, status, facts.offsets, append=append)
        # Records may be on their way from a run that was killed a moment ago: one that noted, or one that could not.
        unknown = any(one.claimed and not one.noted for one in standings.values())
        watch = not dry_run and (unknown or (bool(known) and status is RestoreStatus.RUNNING))
        holes = {topic.target.name: effective_configs(topic, facts).get("cleanup.policy", "") for topic in plan.topics}
        settler = Settler(
            self._cluster, self._check(plan, lambda name: "compact" in holes.get(name, "")), self._stop, self._clock
        )
        there = [one for one in plan.partitions if one.target in facts.offsets]
        found = settler.starts(
            there,
            lambda offsets: stand(plan, known, status, offsets, append=append),
            watch=watch,
            refuse=True,
        ) if there else {}
        starts: dict[TopicPartition, PartitionStart] = {}
        for one in plan.partitions:
            start = found.get(one.target, PartitionStart(kept=0, offset_from=0, target_offset=0))
            if isinstance(start, KbrError):
                raise start
            starts[one.target] = start
        return starts


def _batch_bytes(plan: RestorePlan, facts: TargetFacts) -> int:
    limits = [
        int(limit)
        for topic in plan.topics
        if (limit := effective_configs(topic, facts).get("max.message.bytes", "")).isdecimal()
    ]
    # The limit counts the batch as it is sent; below it uncompressed is below it compressed.
    return min([MAX_BATCH_BYTES, *(max(1024, limit - 1024) for limit in limits)])
