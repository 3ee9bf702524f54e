"""What the user may do: the operations that brokers name for a cluster and its topics (KIP-430). Only looks.

Without an authorizer brokers name all operations. Rights on names and prefixes of topics that do not exist yet can't be
seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from confluent_kafka import TopicCollection

from kbr.errors import AuthorizationFailed, ClusterError, KbrError, TopicMissing
from kbr.kafka.admin import AdminSession
from kbr.kafka.new_topics import TOPICS_PER_REQUEST
from kbr.kafka.translate import UNSUPPORTED, missing_right

__all__ = ["cluster_operations", "topic_operations", "topics_without", "topics_without_error"]

#: Topics that one message names.
_NAMES_SHOWN = 5


def cluster_operations(session: AdminSession) -> frozenset[str] | None:
    """Names of the operations that are allowed on the cluster, such as ``CREATE``; None where brokers don't tell.

    Raises:
        KbrError: the cluster can't be described.
    """
    if session.is_mock():
        return None
    ask = partial(
        session.client.describe_cluster, include_authorized_operations=True, request_timeout=session.request_timeout_s
    )
    try:
        answer = session.steadily(
            lambda: session.result(session.call(ask, "describing the cluster"), "describing the cluster", right="Describe on the cluster")
        )
    except ClusterError as error:
        if error.context.get("kafka_code") in UNSUPPORTED:
            return None
        raise
    return _names(answer.authorized_operations)


def topic_operations(session: AdminSession, topics: Sequence[str]) -> Mapping[str, frozenset[str] | KbrError | None]:
    """The same of topics: the operations, None where brokers don't tell, or why one can't be described.

    Raises:
        KbrError: no topic can be described.
    """
    if session.is_mock():
        return dict.fromkeys(topics)
    found: dict[str, frozenset[str] | KbrError | None] = {}
    for start in range(0, len(topics), TOPICS_PER_REQUEST):
        part = list(topics[start : start + TOPICS_PER_REQUEST])
        try:
            found.update(session.steadily(partial(_described, session, part)))
        except ClusterError as error:
            if error.context.get("kafka_code") not in UNSUPPORTED:
                raise
            found.update(dict.fromkeys(part))
    return found


def topics_without(session: AdminSession, names: Sequence[str], operation: str) -> list[str]:
    """Those of the topics that the user may certainly not do something with; also where they may not be seen at all.

    Whether a topic is there is not told to somebody who may not see it: so a name may be among them that is none. What
    brokers don't tell (some managed ones) counts as allowed: it is refused later, then, when it is done.

    Args:
        names: of topics, also of such that may not exist.
        operation: as Kafka calls it: Read, Write, Describe, ...
    """
    if not names:
        return []
    refused = []
    for name, found in topic_operations(session, list(dict.fromkeys(names))).items():
        if isinstance(found, TopicMissing):
            continue
        if isinstance(found, KbrError) and not isinstance(found, AuthorizationFailed):
            raise found
        if isinstance(found, AuthorizationFailed) or (found and operation.upper() not in found):
            refused.append(name)
    return refused


def topics_without_error(session: AdminSession, names: Sequence[str], operation: str, doing: str) -> AuthorizationFailed:
    """One error for topics that topics_without() found."""
    more = ", ".join(names[1:_NAMES_SHOWN]) + (", ..." if len(names) > _NAMES_SHOWN else "")
    also = f"; nor on {len(names) - 1} more: {more}" if len(names) > 1 else ""
    error = missing_right(doing, f"{operation} on topic {names[0]}", session.principal, topics=list(names))
    return AuthorizationFailed(f"{error.message}{also}", hint=error.hint, **error.context)


def _described(session: AdminSession, topics: Sequence[str]) -> dict[str, frozenset[str] | KbrError | None]:
    futures = session.call(
        partial(
            session.client.describe_topics,
            TopicCollection(list(topics)),
            include_authorized_operations=True,
            request_timeout=session.request_timeout_s,
        ),
        "describing topics",
    )
    found: dict[str, frozenset[str] | KbrError | None] = {}
    for name, future in futures.items():
        try:
            answer: Any = session.result(future, f"describing topic {name}", right=f"Describe on topic {name}")
        except KbrError as error:
            if error.retriable or error.context.get("kafka_code") in UNSUPPORTED:
                raise
            found[name] = error
        else:
            found[name] = _names(answer.authorized_operations)
    return found


def _names(operations: Iterable[Any] | None) -> frozenset[str] | None:
    return None if operations is None else frozenset(str(one.name) for one in operations)
