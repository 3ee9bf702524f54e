"""What a user may do with topics, as the brokers tell it (KIP-430): so that a missing right is told before anything is done."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from confluent_kafka import TopicCollection

from kbr.errors import AuthorizationFailed, ClusterError, TopicMissing
from kbr.kafka.admin import AdminSession
from kbr.kafka.new_topics import TOPICS_PER_REQUEST
from kbr.kafka.translate import UNSUPPORTED, missing_right

__all__ = ["topics_without", "topics_without_error"]

#: Topics that one message names.
_NAMES_SHOWN = 5


def topics_without(session: AdminSession, names: Sequence[str], operation: str) -> list[str]:
    """Those of the topics that the user may certainly not do something with; also where they may not be seen at all.

    Whether a topic is there is not told to somebody who may not see it: so a name may be among them that is none. What
    brokers don't tell (some managed ones) counts as allowed: it is refused later, then, when it is done.

    Args:
        names: of topics, also of such that may not exist.
        operation: as Kafka calls it: Read, Write, Describe, ...
    """
    if not names or session.is_mock():
        return []
    found: list[str] = []
    wanted = list(dict.fromkeys(names))
    for start in range(0, len(wanted), TOPICS_PER_REQUEST):
        try:
            found += session.steadily(partial(_refused, session, wanted[start : start + TOPICS_PER_REQUEST], operation.upper()))
        except ClusterError as error:
            if error.context.get("kafka_code") not in UNSUPPORTED:
                raise
            return []
    return found


def _refused(session: AdminSession, names: Sequence[str], operation: str) -> list[str]:
    futures = session.call(
        partial(
            session.client.describe_topics,
            TopicCollection(list(names)),
            include_authorized_operations=True,
            request_timeout=session.request_timeout_s,
        ),
        "reading the rights on topics",
    )
    found = []
    for name, future in futures.items():
        try:
            topic = session.result(future, f"reading the rights on topic {name}", right=f"Describe on topic {name}")
        except AuthorizationFailed:
            found.append(name)
        except TopicMissing:
            continue
        else:
            allowed = {one.name for one in topic.authorized_operations or ()}
            if allowed and operation not in allowed:
                found.append(name)
    return found


def topics_without_error(session: AdminSession, names: Sequence[str], operation: str, doing: str) -> AuthorizationFailed:
    """One error for topics that topics_without() found."""
    more = ", ".join(names[1:_NAMES_SHOWN]) + (", ..." if len(names) > _NAMES_SHOWN else "")
    also = f"; nor on {len(names) - 1} more: {more}" if len(names) > 1 else ""
    error = missing_right(doing, f"{operation} on topic {names[0]}", session.principal, topics=list(names))
    return AuthorizationFailed(f"{error.message}{also}", hint=error.hint, **error.context)
