"""Which topics names and globs mean. Pure."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from kbr.errors import TopicMissing, UsageError

__all__ = ["may_choose", "missing_topics", "select_topics"]

_GLOB = re.compile(r"[*?\[]")


def missing_topics(topics: Iterable[str], include: Sequence[str], exclude: Sequence[str]) -> list[str]:
    """Names without wildcards that are asked for and are not among ``topics``."""
    known = set(topics)
    return sorted(
        name
        for name in include
        if not _GLOB.search(name) and name not in known and not any(fnmatchcase(name, pattern) for pattern in exclude)
    )


def may_choose(name: str, include: Sequence[str], exclude: Sequence[str]) -> bool:
    """Whether select_topics() can choose a topic of that name."""
    wanted = any(fnmatchcase(name, one) if _GLOB.search(one) else name == one for one in include)
    return wanted and not any(fnmatchcase(name, pattern) for pattern in exclude)


def select_topics(
    topics: Iterable[tuple[str, bool, int]],
    include: Sequence[str],
    exclude: Sequence[str],
    *,
    include_internal: bool,
) -> list[str]:
    """Names of the chosen topics, in order.

    Args:
        topics: (name, is internal, partition count) of all there are.
        include: names and globs. A name without wildcards has to exist.
        exclude: names and globs; wins.
        include_internal: whether globs match internal topics (marked so, or named ``__...``).

    Raises:
        TopicMissing: a named topic does not exist; all of them are named.
        UsageError: nothing is left.
    """
    known = {name: internal or name.startswith("__") for name, internal, _count in topics}
    literal = [pattern for pattern in include if not _GLOB.search(pattern)]
    missing = sorted(name for name in literal if name not in known)
    if missing:
        near = sorted({match for name in missing for match in difflib.get_close_matches(name, known, n=3)})
        raise TopicMissing(
            f"no such topic: {', '.join(missing)}",
            hint=f"did you mean {', '.join(near)}?" if near else "kbr takes exact names and globs such as 'orders-*'",
            topics=missing,
        )
    globs = [pattern for pattern in include if _GLOB.search(pattern)]
    chosen = set(literal)
    chosen.update(
        name
        for name, internal in known.items()
        if (include_internal or not internal) and any(fnmatchcase(name, pattern) for pattern in globs)
    )
    chosen = {name for name in chosen if not any(fnmatchcase(name, pattern) for pattern in exclude)}
    if not chosen:
        raise UsageError(
            f"no topic matches {', '.join(include) or 'nothing'}"
            + (f" without {', '.join(exclude)}" if exclude else ""),
            hint=(f"there are {len(known)} topics" if known else "the user sees no topic at all, and may lack Read on them")
            + ("; internal ones are left out" if known and not include_internal else ""),
        )
    return sorted(chosen)
