"""What the cluster says at the beginning of a pass: which topics are to be read, and their offsets. Reads only."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

from kbr.backup.options import BackupOptions
from kbr.errors import KbrError, TopicMissing, UsageError
from kbr.format.documents import SourceInfo
from kbr.kafka.cluster import Cluster, PartitionOffsets
from kbr.kafka.selection import missing_topics, select_topics
from kbr.model import TopicPartition, TopicSpec

__all__ = ["Survey", "check_selection", "source_info", "survey_topics"]

#: A topic may go between the listing and the description: then both are made again, so often.
_TRIES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What was found.

    Attributes:
        topics: those to read, as they are now.
        gone: names of topics that the backup has, and the selection wants, and the cluster has not.
        missing: names that were asked for and are nowhere.
        offsets: of the partitions that were asked for.
        errors: why those of others could not be had.
    """

    topics: tuple[TopicSpec, ...]
    gone: tuple[str, ...]
    missing: tuple[str, ...]
    offsets: dict[TopicPartition, PartitionOffsets]
    errors: dict[TopicPartition, str]


def source_info(cluster: Cluster, options: BackupOptions) -> SourceInfo:
    """The cluster, for the manifest."""
    info = cluster.info()
    return SourceInfo(
        cluster_id=info.cluster_id,
        brokers=tuple(info.brokers),
        isolation_level=options.isolation_level,
        time_window_start_ms=options.time_window_start_ms,
        time_window_end_ms=options.time_window_end_ms,
    )


def check_selection(cluster: Cluster, options: BackupOptions, *, has_backup: Callable[[], bool]) -> None:
    """See that the cluster answers and that there is something to read, before anything is written.

    Args:
        has_backup: whether there is a backup to go on with, which may have topics that are gone.

    Raises:
        TopicMissing: a named topic does not exist, and ``on_missing_topic`` is ``fail``.
        UsageError: nothing is to be read.
        AuthorizationFailed: a named topic may not be read, or none of them.
        ClusterError: the cluster does not answer.
    """
    listed = cluster.topics()
    missing = missing_topics({name for name, _internal, _count in listed}, options.include, options.exclude)
    goes_on = options.on_missing_topic == "continue"
    include = [name for name in options.include if not (goes_on and name in missing)]
    if not goes_on:
        _refuse_unreadable(cluster, cluster.topics_without(missing, "Read"))
    chosen = _chosen(listed, include, options, may_be_none=True)
    if not chosen and not (goes_on or options.continuous or has_backup()):
        _chosen(listed, include, options, may_be_none=False)
    unreadable = cluster.topics_without(chosen, "Read")
    # one of many that a glob found is no reason to leave the others
    named = [name for name in unreadable if name in include]
    _refuse_unreadable(cluster, named or (unreadable if len(unreadable) == len(chosen) else []))


def _refuse_unreadable(cluster: Cluster, names: Sequence[str]) -> None:
    if names:
        raise cluster.right_error(names, "Read", "reading topics")


def survey_topics(
    cluster: Cluster,
    options: BackupOptions,
    *,
    known: Sequence[str],
    only: Collection[TopicPartition] | None = None,
    left_out: Collection[TopicPartition] = (),
    begun: Callable[[], Collection[TopicPartition]] = tuple,
) -> Survey:
    """Choose topics and read their offsets.

    Args:
        known: names of the topics that the backup has.
        only: read no other partitions' offsets; new topics are not looked for.
        left_out: don't read these partitions' offsets.
        begun: partitions of which it is known already where they begin: of the others a window of time is looked up.

    Raises:
        TopicMissing: a named topic does not exist, and ``on_missing_topic`` is ``fail``.
        UsageError: nothing is to be read.
        ClusterError: the cluster does not answer.
    """
    for _ in range(_TRIES - 1):
        try:
            return _survey(cluster, options, known, only, left_out, begun)
        except _Vanished:
            continue
    return _survey(cluster, options, known, only, left_out, begun)


class _Vanished(TopicMissing):
    """A topic that was listed could not be described."""


def _survey(
    cluster: Cluster,
    options: BackupOptions,
    known: Sequence[str],
    only: Collection[TopicPartition] | None,
    left_out: Collection[TopicPartition],
    begun: Callable[[], Collection[TopicPartition]],
) -> Survey:
    listed = cluster.topics()
    there = {name for name, _internal, _count in listed}
    missing = tuple(missing_topics(there, options.include, options.exclude))
    goes_on = options.on_missing_topic == "continue"
    include = [name for name in options.include if not (goes_on and name in missing)]
    if only is not None:
        names = sorted({key.topic for key in only} & there)
        gone = tuple(sorted({key.topic for key in only} - there))
    else:
        wanted_before = _wanted_of(known, options)
        names = _chosen(listed, include, options, may_be_none=goes_on or options.continuous or bool(wanted_before))
        gone = tuple(sorted(wanted_before - there))
    try:
        described = cluster.describe_topics(names) if names else {}
    except TopicMissing as error:
        raise _Vanished(error.message, hint=error.hint, **error.context) from error
    specs = tuple(described[name] for name in names)
    wanted = [TopicPartition(spec.name, number) for spec in specs for number in range(spec.partition_count)]
    wanted = [key for key in wanted if (only is None or key in only) and key not in left_out]
    offsets: dict[TopicPartition, PartitionOffsets] = {}
    errors: dict[TopicPartition, str] = {}
    answers = cluster.offsets(wanted, options.isolation_level) if wanted else {}
    for key in wanted:
        found = answers[key]
        if isinstance(found, KbrError):
            errors[key] = str(found)
        else:
            offsets[key] = found
    if options.time_window_start_ms is not None and offsets:
        _look_up_window(cluster, options.time_window_start_ms, set(begun()), offsets, errors)
    return Survey(topics=specs, gone=gone, missing=missing, offsets=offsets, errors=errors)


def _look_up_window(
    cluster: Cluster,
    start_ms: int,
    begun: Collection[TopicPartition],
    offsets: dict[TopicPartition, PartitionOffsets],
    errors: dict[TopicPartition, str],
) -> None:
    """Where the partitions that nothing is known of begin to hold records of the window.

    After their ends were asked for: that there is no such record is true up to there, then.
    """
    new = [key for key in offsets if key not in begun]
    for key, answer in cluster.first_at(new, start_ms).items() if new else ():
        if isinstance(answer, KbrError):
            errors[key] = str(answer)
            del offsets[key]
        else:
            offsets[key] = replace(offsets[key], first_wanted=offsets[key].end_offset if answer < 0 else answer)


def _chosen(
    listed: Sequence[tuple[str, bool, int]], include: Sequence[str], options: BackupOptions, *, may_be_none: bool
) -> list[str]:
    try:
        return select_topics(listed, include, options.exclude, include_internal=options.include_internal)
    except UsageError:
        if not may_be_none:
            raise
        return []


def _wanted_of(known: Sequence[str], options: BackupOptions) -> set[str]:
    """Topics of the backup that the selection would take if they were there."""
    missing = set(missing_topics(known, options.include, ()))
    include = [name for name in options.include if name not in missing]
    if not known or not include:
        return set()
    try:
        names = select_topics(
            [(name, False, 0) for name in known], include, options.exclude, include_internal=options.include_internal
        )
    except UsageError:
        return set()
    return set(names)
