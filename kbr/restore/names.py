"""Which name each topic gets in the target: single names, globs, a prefix and a suffix. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from kbr.errors import UsageError
from kbr.format.names import is_topic_name

__all__ = ["target_names"]


def target_names(
    topics: Iterable[str], mapping: Mapping[str, str], *, prefix: str = "", suffix: str = ""
) -> dict[str, str]:
    """Source topic to target topic.

    A topic's own name in the mapping comes first, then the first pattern that fits; each ``*`` of its right side stands
    for what the ``*`` at the same place of its left side has taken. Prefix and suffix are for topics that the mapping does
    not name.

    Args:
        mapping: names and patterns with ``*``, in order.

    Raises:
        UsageError: a name or pattern means no topic, a right side has more ``*`` than its left side, or what comes out
            can't be a topic.
    """
    names = sorted(topics)
    patterns = {left: re.compile("(.*)".join(map(re.escape, left.split("*")))) for left in mapping if "*" in left}
    for left, right in mapping.items():
        if right.count("*") > left.count("*"):
            raise UsageError(
                f"the topic mapping {left}={right} has more * on its right side than on its left",
                hint="each * on the right stands for what the * at the same place on the left has taken",
            )
    unknown = sorted(
        left
        for left in mapping
        if (left not in names if left not in patterns else not any(map(patterns[left].fullmatch, names)))
    )
    if unknown:
        raise UsageError(
            f"the topic mapping names {', '.join(unknown)}, which is not among the topics to restore",
            hint=f"topics to restore: {', '.join(names[:20])}",
        )
    found = {name: _target(name, mapping, patterns, prefix, suffix) for name in names}
    for name, target in found.items():
        if not is_topic_name(target):
            raise UsageError(
                f"topic {name} would be restored as {target!a}, which can't be a topic's name",
                hint="a topic's name has 1 to 249 letters, digits, dots, underscores and hyphens",
            )
    return found


def _target(
    name: str, mapping: Mapping[str, str], patterns: Mapping[str, re.Pattern[str]], prefix: str, suffix: str
) -> str:
    if name in mapping:
        return mapping[name]
    for left, pattern in patterns.items():
        match = pattern.fullmatch(name)
        if match is not None:
            pieces = mapping[left].split("*")
            return pieces[0] + "".join(f"{taken}{piece}" for taken, piece in zip(match.groups(), pieces[1:], strict=False))
    return f"{prefix}{name}{suffix}"
