"""What earlier runs have left in the store and in no manifest: taken over, or put aside where it can't be used.

Called before the first pass, under the backup's lock. What workers do about what they find later is theirs (task.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from kbr.backup.state import BackupState
from kbr.backup.survey import Survey
from kbr.model import TopicPartition
from kbr.repository.adopt import names_behind, unlisted_segments
from kbr.repository.aside import put_aside
from kbr.repository.layout import SegmentName, parse_segment_key, relative_segment_key
from kbr.repository.sealing import lists_only
from kbr.storage import ObjectStore
from kbr.telemetry.logs import get_logger
from kbr.timing import Clock

__all__ = ["take_leftovers"]

_log = get_logger("kbr.backup")


def take_leftovers(
    state: BackupState,
    survey: Survey,
    *,
    store: ObjectStore,
    backup_id: str,
    check_lock: Callable[[], None] | None,
    warn: Callable[[str], None],
    clock: Clock,
    ended_well: bool = False,
) -> frozenset[str]:
    """Go on behind what earlier runs committed and could not list, or have it read anew.

    Args:
        ended_well: the run before has listed all that it committed. Then there is something only if an older manifest was put
            back, and it is found when its place is written to; but where the log has lost that place, nobody writes there.
        check_lock: raises where the lock is another run's by now; None where nothing may be written.
        warn: takes what is to be said of it.

    Returns:
        Keys below the backup's folder of what was put aside and could not be removed: it is to be replaced.

    Raises:
        StorageError: the store failed.
        Locked: as ``check_lock``.
    """
    there = {topic.name: topic.topic_id for topic in survey.topics}
    # of a topic that was made anew, nobody knows from which of both it was read
    same = {
        name: state.topic_id(name)
        for name in state.topic_names
        if not (there.get(name) and state.topic_id(name) and there[name] != state.topic_id(name))
    }
    # what was left out because its topic was made anew stays out when that one is gone, too
    positions = {
        key: position
        for key, position in state.positions().items()
        if key.topic in same and (there.get(key.topic) or not state.failed_for_good(key))
    }
    aside = partial(_put_aside, store, backup_id, check_lock, warn)
    if ended_well:
        known = state.known(list(same))
        positions = {key: position for key, position in positions.items() if _log_start(survey, key) > known[key].reached}
    if lists_only(store, backup_id):
        return aside(names_behind(store, backup_id, positions), "as only what is signed is used")
    unlisted = unlisted_segments(store, backup_id, positions, same)
    left = unlisted.left_out
    for key, references in unlisted.segments.items():
        for reference in state.found(key, references, log_start=_log_start(survey, key), now_ms=clock.now_ms()):
            left[reference.key] = "it does not follow the segments before it"
    if unlisted.segments:
        _log.info("took over segments that no manifest listed of %d partitions", len(unlisted.segments))
    names = filter(None, map(parse_segment_key, unlisted.damaged))
    next_places = state.positions()  # behind what was taken over
    in_the_way = [name for name in names if name.sequence == next_places[TopicPartition(name.topic, name.partition)]]
    reasons = [left.pop(relative_segment_key(*name)) for name in in_the_way]
    for name, reason in left.items():
        warn(f"{name} is in no manifest and was left alone: {reason}")
    return aside(in_the_way, f"as nobody can read it ({reasons[0]})" if reasons else "")


def _log_start(survey: Survey, key: TopicPartition) -> int:
    offsets = survey.offsets.get(key)
    return 0 if offsets is None else offsets.log_start


def _put_aside(
    store: ObjectStore,
    backup_id: str,
    check_lock: Callable[[], None] | None,
    warn: Callable[[str], None],
    names: Sequence[SegmentName],
    why: str,
) -> frozenset[str]:
    if check_lock is not None:
        done = put_aside(store, backup_id, names, check_lock)
        if done.keys:
            warn(done.told(why))
        return done.in_the_way
    if names:
        warn(
            f"segments that no manifest lists ({len(names)}) would be put aside, {why}, and their records read from the "
            "cluster again"
        )
    return frozenset()
