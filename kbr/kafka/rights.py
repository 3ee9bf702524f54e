"""What the user may do: the operations that brokers name for a cluster and its topics (KIP-430). Only looks.

Without an authorizer brokers name all operations. Rights on names and prefixes of topics that do not exist yet can't be
seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from confluent_kafka import KafkaError, TopicCollection

from kbr.errors import ClusterError, KbrError
from kbr.kafka.admin import AdminSession
from kbr.kafka.new_topics import TOPICS_PER_REQUEST

__all__ = ["cluster_operations", "topic_operations"]

_UNSUPPORTED = frozenset({KafkaError._UNSUPPORTED_FEATURE, KafkaError.UNSUPPORTED_VERSION, KafkaError._NOT_IMPLEMENTED})


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
        if error.context.get("kafka_code") in _UNSUPPORTED:
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
            if error.context.get("kafka_code") not in _UNSUPPORTED:
                raise
            found.update(dict.fromkeys(part))
    return found


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
            if error.retriable or error.context.get("kafka_code") in _UNSUPPORTED:
                raise
            found[name] = error
        else:
            found[name] = _names(answer.authorized_operations)
    return found


def _names(operations: Iterable[Any] | None) -> frozenset[str] | None:
    return None if operations is None else frozenset(str(one.name) for one in operations)
