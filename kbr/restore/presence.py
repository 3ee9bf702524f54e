"""Whether the segments that a restore is going to read are there, and can be read: asked before the first record is sent.

A lifecycle rule, or somebody, may have removed or archived some. Half a restore is worse than none, and a refusal at the
beginning costs nobody a night. Only looks at objects' sizes; damage within them is told when they are read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from kbr.errors import IntegrityError, KbrError, ObjectMissing
from kbr.model import SegmentRef, TopicPartition
from kbr.repository.layout import backup_folder, topics_prefix
from kbr.restore.plan import RestorePlan
from kbr.storage import ObjectStore
from kbr.storage.base import ObjectInfo

__all__ = ["check_presence"]

#: So many segments are asked for one by one, as many at a time as there are threads; of more, their topics' folders
#: are listed, a thousand objects a request.
MAX_ASKED = 2000
THREADS = 16
#: Segments that a message names.
NAMES_SHOWN = 5


@dataclass(frozen=True, slots=True)
class _Finding:
    key: str
    what: str


def check_presence(
    store: ObjectStore, plan: RestorePlan, *, allow_incomplete: bool
) -> tuple[RestorePlan, dict[TopicPartition, KbrError]]:
    """Look for every segment of what is left of a plan.

    Args:
        allow_incomplete: restore all the same what comes before the first segment that can't be read.

    Returns:
        The plan as it can be done, and why partitions end early, by source.

    Raises:
        IntegrityError: some are not there, of another size, or archived; not ``allow_incomplete``.
        StorageError: the store failed.
    """
    folder = backup_folder(plan.backup_id)
    wanted = {f"{folder}{ref.key}": ref for ref in plan.segments}
    findings = _ask(store, wanted) if len(wanted) <= MAX_ASKED else _list(store, plan, wanted)
    if not findings:
        return plan, {}
    if not allow_incomplete:
        raise _refusal(findings, len(wanted))
    absent = {finding.key[len(folder) :]: finding for finding in findings}
    errors: dict[TopicPartition, KbrError] = {}
    partitions = []
    for one in plan.partitions:
        count, finding = _first(one.segments, absent)
        if finding is not None:
            errors[one.source] = IntegrityError(
                f"{one.source}: it was restored up to segment {finding.key}, which can't be read ({finding.what})",
                hint="get it back, then run the same command again: it goes on from there",
                object=finding.key,
            )
        partitions.append(replace(one, segments=one.segments[:count]))
    return replace(plan, partitions=tuple(partitions)), errors


def _first(segments: Sequence[SegmentRef], absent: Mapping[str, _Finding]) -> tuple[int, _Finding | None]:
    """How many come before the first that can't be read, and that one."""
    for count, ref in enumerate(segments):
        if (finding := absent.get(ref.key)) is not None:
            return count, finding
    return len(segments), None


def _refusal(findings: Sequence[_Finding], wanted_count: int) -> IntegrityError:
    shown = ", ".join(f"{one.key} ({one.what})" for one in findings[:NAMES_SHOWN])
    more = f" and {len(findings) - NAMES_SHOWN} more" if len(findings) > NAMES_SHOWN else ""
    return IntegrityError(
        f"{len(findings)} of {wanted_count} segments that the restore needs can't be read: {shown}{more}. Nothing was sent",
        hint="get them back (a lifecycle rule may have removed or archived them; kbr verify lists all), or restore what "
        "there is with --allow-incomplete",
        object=findings[0].key,
        count=len(findings),
    )


def _ask(store: ObjectStore, wanted: Mapping[str, SegmentRef]) -> list[_Finding]:
    def look(key: str) -> _Finding | None:
        try:
            return _compare(wanted[key], store.head(key))
        except ObjectMissing:
            return _Finding(key, "missing")

    with ThreadPoolExecutor(THREADS) as pool:
        return [finding for finding in pool.map(look, wanted) if finding is not None]


def _list(store: ObjectStore, plan: RestorePlan, wanted: Mapping[str, SegmentRef]) -> list[_Finding]:
    found: dict[str, _Finding | None] = {}
    for topic in sorted({source.topic for one in plan.partitions if one.segments for source in one.sources or (one.source,)}):
        for info in store.list(f"{topics_prefix(plan.backup_id)}{topic}/"):
            if (reference := wanted.get(info.key)) is not None:
                # a listing does not tell what was got back from an archive for a while
                found[info.key] = _compare(reference, store.head(info.key) if info.is_archived else info)
    answers = (found.get(key, _Finding(key, "missing")) for key in wanted)
    return [finding for finding in answers if finding is not None]


def _compare(reference: SegmentRef, info: ObjectInfo) -> _Finding | None:
    if info.size_bytes != reference.stored_bytes:
        return _Finding(info.key, f"{info.size_bytes} bytes, not {reference.stored_bytes}")
    return _Finding(info.key, "archived") if info.is_archived else None
