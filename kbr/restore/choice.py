"""Which of a backup's topics a restore takes: what clusters and registries keep for themselves only by name. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kbr.errors import PreflightRefused, TopicMissing, UsageError
from kbr.format.documents import TopicEntry
from kbr.kafka.selection import select_topics

__all__ = ["choose_topics", "refuse_brokers_own"]

#: Where the Schema Registry keeps its schemas (kafkastore.topic).
SCHEMAS = "_schemas"
#: What brokers write themselves; they refuse other producers, or believe what these write.
_BROKERS_OWN = frozenset({"__consumer_offsets", "__transaction_state", "__share_group_state", "__cluster_metadata"})


def choose_topics(
    topics: Sequence[TopicEntry], include: Sequence[str], exclude: Sequence[str]
) -> tuple[set[str], list[str]]:
    """The names that are meant, and what is to be known about topics that are not, or are special.

    Raises:
        UsageError: a named topic is not in the backup, or nothing is left.
    """
    known = [(topic.name, topic.is_internal, topic.partition_count) for topic in topics]
    try:
        all_names = set(select_topics(known, include, exclude, include_internal=True))
    except TopicMissing as error:
        missing = ", ".join(error.context["topics"])
        raise UsageError(f"not in the backup: {missing}", hint=error.hint, **error.context) from error
    names = set(select_topics(known, include, exclude, include_internal=False))
    if SCHEMAS in names and SCHEMAS not in include:
        names.discard(SCHEMAS)
        if not names:
            raise UsageError(
                f"only {SCHEMAS} matches, which is not restored by a pattern", hint=f"name it: --topic {SCHEMAS}"
            )
    notes = []
    left_out = sorted(all_names - names)
    if left_out:
        notes.append(
            f"{', '.join(left_out)}: not restored, as only a pattern matches: name {'it' if len(left_out) == 1 else 'them'} "
            "with -t to have what a cluster or a Schema Registry keeps for itself"
        )
    if SCHEMAS in names:
        notes.append(
            f"{SCHEMAS}: the Schema Registry must not run while it is restored, and its ids are in the records of other "
            "topics: restore it only where no registry has given ids of its own"
        )
    notes.extend(
        f"{name}: is an internal topic of the source cluster; nothing in the target will take it for its own"
        for name in sorted(names)
        if name in _BROKERS_OWN
    )
    return names, notes


def refuse_brokers_own(targets: Iterable[str]) -> None:
    """Refuse to write where brokers write.

    Raises:
        PreflightRefused: one of the target topics is theirs.
    """
    own = sorted(_BROKERS_OWN & set(targets))
    if own:
        raise PreflightRefused(
            f"{', '.join(own)} of the target cluster is written by its brokers alone",
            hint="restore it under another name with --topic-map; consumer groups' offsets are restored with --groups",
        )
