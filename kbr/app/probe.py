"""`kbr config check --probe`: connects to what a configuration names, and tells what a run will miss there."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from kbr.app.check import ConfigCheck, check_config
from kbr.app.stores import store_options, warn_of_plain_http
from kbr.app.wiring import client_settings
from kbr.config import Config
from kbr.config.model import ClusterConfig
from kbr.errors import KbrError, TopicMissing
from kbr.kafka.cluster import Cluster
from kbr.kafka.selection import missing_topics, select_topics
from kbr.maintain.probe import Outcome, ProbeLine, first_exit_code, of_error
from kbr.maintain.store_probe import probe_store
from kbr.model import TopicPartition
from kbr.repository.layout import backup_folder
from kbr.storage import open_store

__all__ = ["ConfigProbe", "probe_config"]

#: How long the storage is tried again for one thing, seconds: a probe is waited for.
DEADLINE_S = 20.0
#: S3's least part: a probe writes one and a byte.
PART_BYTES = 5 << 20
#: Topics that are named in a line, at most.
_NAMED = 5
#: What makes a pattern of a consumer group's name.
_GLOB = re.compile(r"[*?\[]")
#: Operations on topics, the rights' names, what they are for, and whether a run can't do without.
_TO_BACK_UP = (
    ("READ", "Read", "read topics", True),
    ("DESCRIBE_CONFIGS", "DescribeConfigs", "keep topic configs", False),
)
_TO_RESTORE = (
    ("WRITE", "Write", "write topics", True),
    ("READ", "Read", "go on after an interruption", False),
    ("DESCRIBE_CONFIGS", "DescribeConfigs", "compare topic configs", False),
)
_SIDES: tuple[tuple[Literal["source", "target"], str], ...] = (("source", "backup"), ("target", "restore"))


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigProbe:
    """A configuration that is right, and what was found where it points to.

    Attributes:
        check: what was found without connecting.
        verbs: those for which a missing thing counts.
        lines: in the order in which they were tried.
    """

    check: ConfigCheck
    verbs: tuple[str, ...]
    lines: tuple[ProbeLine, ...]

    @property
    def exit_code(self) -> int:
        """0 if the verbs miss nothing, else that of the first error."""
        return first_exit_code(self.lines, self.verbs)

    def to_document(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            **self.check.to_document(),
            "ok": self.exit_code == 0,
            "probed_for": list(self.verbs),
            "probe": [{**line.to_document(), "missed": line.is_missed(self.verbs)} for line in self.lines],
        }


def probe_config(config: Config, *, mode: Literal["backup", "restore"] | None) -> ConfigProbe:
    """Check a configuration, then try what a run would do with it.

    Args:
        mode: the verb that it has to be enough for; None for those whose cluster it names, a backup if it names none.

    Raises:
        ConfigError: something in the configuration can't work.
    """
    checked = check_config(config)
    sides = [(side, verb) for side, verb in _SIDES if getattr(config, side).bootstrap_servers and mode in (None, verb)]
    verbs = (mode,) if mode is not None else tuple(verb for _, verb in sides) or ("backup",)
    lines = list(_storage(config))
    for side, _ in sides:
        lines += _Cluster(config, side).lines()
    return ConfigProbe(check=checked, verbs=verbs, lines=tuple(lines))


def _storage(config: Config) -> list[ProbeLine]:
    options = store_options(config.storage)
    warn_of_plain_http(options)
    deadline_s = min(DEADLINE_S, options.deadline_s)
    options = replace(options, part_bytes=PART_BYTES, deadline_s=deadline_s, check_deadline_s=deadline_s)
    try:
        store = open_store(options)
    except KbrError as error:
        return [of_error(error, place="storage", check="connect", needed_for=("backup", "restore", "verify"))]
    try:
        return probe_store(store, part_bytes=PART_BYTES, backup_folder=backup_folder(config.backup_id) if config.backup_id else "")
    finally:
        store.close()


class _Cluster:
    """The probe of one cluster."""

    def __init__(self, config: Config, side: Literal["source", "target"]) -> None:
        self._config = config
        self._side = side
        self._verb = dict(_SIDES)[side]
        self._cluster_config: ClusterConfig = getattr(config, side)

    def lines(self) -> Iterator[ProbeLine]:
        """One after the other, as it is done."""
        settings = client_settings(self._cluster_config)
        try:
            with Cluster(settings, deadline_s=min(DEADLINE_S, self._cluster_config.deadline_ms / 1000)) as cluster:
                info = cluster.info()
                found = f"cluster {info.cluster_id or '(without an id)'}, {len(info.brokers)} brokers"
                yield self._line("connect", Outcome.OK, detail=found)
                if self._side == "source":
                    yield from self._source(cluster)
                else:
                    yield from self._target(cluster)
        except KbrError as error:
            yield self._failed(error, "connect")

    # -- a backup's -----------------------------------------------------------------------

    def _source(self, cluster: Cluster) -> Iterator[ProbeLine]:
        topics = self._topics(cluster)
        if isinstance(topics, ProbeLine):
            yield topics
            return
        yield self._line("topics", Outcome.OK, right="Describe on the topics", detail=f"{len(topics)} are chosen")
        yield from self._described(cluster, list(topics), _TO_BACK_UP)
        yield from self._named_groups(cluster)
        partitions = [TopicPartition(name, number) for name, count in topics.items() for number in range(count)]
        try:
            answers = cluster.offsets(partitions, self._config.backup.isolation_level)
        except KbrError as error:
            yield self._failed(error, "end offsets", right="Describe on the topics")
            return
        errors = [answer for answer in answers.values() if isinstance(answer, KbrError)]
        if errors:
            line = self._failed(errors[0], "end offsets", right="Describe on the topics")
            yield replace(line, detail=f"of {len(errors)} of {len(partitions)} partitions: {line.detail}")
        else:
            detail = f"of {len(partitions)} partitions"
            yield self._line("end offsets", Outcome.OK, right="Describe on the topics", detail=detail)

    def _topics(self, cluster: Cluster) -> dict[str, int] | ProbeLine:
        """Those that a backup takes, with their partition counts."""
        chosen = self._config.source.topics
        try:
            there = cluster.topics()
            # as a backup does: to somebody who may not see a topic, it is not told apart from one that is not there
            missing = missing_topics({name for name, _, _ in there}, chosen.include, chosen.exclude)
            if unseen := cluster.topics_without(missing, "Read"):
                raise cluster.right_error(unseen, "Read", "reading topics")
            names = select_topics(
                there, chosen.include, chosen.exclude, include_internal=self._config.backup.include_internal_topics
            )
        except TopicMissing as error:  # or the brokers don't tell who may see what
            line = self._failed(error, "topics", right="Describe on the topics")
            return replace(line, hint=f"{line.hint}; without Describe a topic can't be seen")
        except KbrError as error:
            return self._failed(error, "topics", right="Describe on the topics")
        counts = {name: count for name, _, count in there}
        return {name: counts[name] for name in names}

    def _named_groups(self, cluster: Cluster) -> Iterator[ProbeLine]:
        """Those that a backup would miss with an error. What a glob means is what the user may see: nothing is missed there."""
        named = [one for one in self._config.backup.consumer_groups if not _GLOB.search(one)]
        if not named:
            return
        right = "Describe on the groups"
        try:
            answers = cluster.groups.committed(named)
        except KbrError as error:
            yield self._failed(error, "read groups", right=right)
            return
        errors = [answer for answer in answers.values() if isinstance(answer, KbrError)]
        if errors:
            line = self._failed(errors[0], "read groups", right=right)
            yield replace(line, detail=f"of {len(errors)} of {len(named)} groups: {line.detail}")
        else:
            yield self._line("read groups", Outcome.OK, right=right, detail=f"{len(named)} groups")

    # -- a restore's ----------------------------------------------------------------------

    def _target(self, cluster: Cluster) -> Iterator[ProbeLine]:
        try:
            there = [name for name, internal, _ in cluster.topics() if not internal]
        except KbrError as error:
            yield self._failed(error, "topics", right="Describe on the topics")
            return
        yield self._line("topics", Outcome.OK, right="Describe on the topics", detail=f"{len(there)} are there")
        try:
            allowed = cluster.allowed_operations()
        except KbrError as error:
            yield self._failed(error, "create topics", right="Create")
        else:
            yield self._create(allowed)
        mapped = [name for name in self._config.restore.topic_mapping.values() if name in there]
        yield from self._described(cluster, mapped, _TO_RESTORE)

    def _create(self, allowed: frozenset[str] | None) -> ProbeLine:
        if allowed is None:
            return self._line("create topics", Outcome.NOTE, right="Create", detail="the brokers don't tell rights")
        if "CREATE" in allowed:
            return self._line("create topics", Outcome.OK, right="Create", detail="on the cluster")
        return self._line(
            "create topics",
            Outcome.NOTE,
            right="Create",
            detail="not on the cluster; a right on names or prefixes of topics can't be seen before they exist",
            hint="allow Create on the target topics, or make them beforehand",
        )

    # -- both -----------------------------------------------------------------------------

    def _described(
        self, cluster: Cluster, topics: Sequence[str], wanted: Sequence[tuple[str, str, str, bool]]
    ) -> Iterator[ProbeLine]:
        """A line for each right: the topics on which it is missing."""
        if not topics:
            return
        try:
            allowed = cluster.allowed_topic_operations(topics)
        except KbrError as error:
            yield self._failed(error, "rights", right="Describe on the topics")
            return
        errors = {name: answer for name, answer in allowed.items() if isinstance(answer, KbrError)}
        for first in list(errors.values())[:1]:
            line = self._failed(first, "rights", right="Describe on the topics")
            yield replace(line, detail=f"of {len(errors)} of {len(topics)} topics: {line.detail}")
        known = {name: answer for name, answer in allowed.items() if isinstance(answer, frozenset)}
        if not known and not errors:
            yield self._line("rights", Outcome.NOTE, detail="the brokers don't tell rights")
            return
        for operation, right, check, is_needed in wanted:
            missing = sorted(name for name, answer in known.items() if operation not in answer)
            if not missing:
                line = self._line(check, Outcome.OK, right=f"{right} on the topics", detail=f"{len(known)} topics")
                yield line if is_needed else replace(line, needed_for=())
                continue
            more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
            names = ", ".join(missing[:_NAMED]) + more
            line = self._line(
                check,
                Outcome.DENIED,
                right=f"{right} on the topics",
                detail=f"missing: {right} on topic {names}",
                hint=f"the user needs {right} on topic {names}",
                exit_code=1,
            )
            yield line if is_needed else replace(line, needed_for=())

    def _line(
        self, check: str, outcome: Outcome, *, right: str = "", detail: str = "", hint: str = "", exit_code: int = 0
    ) -> ProbeLine:
        return ProbeLine(
            place=self._side,
            check=check,
            outcome=outcome,
            needed_for=(self._verb,),
            right=right,
            detail=detail,
            hint=hint,
            exit_code=exit_code,
        )

    def _failed(self, error: KbrError, check: str, *, right: str = "") -> ProbeLine:
        return of_error(error, place=self._side, check=check, needed_for=(self._verb,), right=right)
