"""What a Source and a Sink report: plain tuples. ``lane`` is a partition's place in the list given to start()."""

from __future__ import annotations

from typing import NamedTuple

from kbr_codec._block import RawBlock

__all__ = [
    "ERR_HEADER_NUL",
    "ERR_LOG_REPLACED",
    "ERR_NO_MEMORY",
    "ERR_OFFSETS_FELL",
    "ERR_QUEUE_TOO_SMALL",
    "ERR_RECORD_TOO_LARGE",
    "ERR_TIMESTAMP_ZERO",
    "BlockReady",
    "ClientEvent",
    "Delivered",
    "PartitionEnd",
    "Property",
    "Sent",
    "SinkFailure",
    "SourceError",
]

#: kbr's own codes in SourceError and SinkFailure, outside librdkafka's range (rd_kafka_resp_err_t).
ERR_HEADER_NUL = -100001
ERR_NO_MEMORY = -100002
ERR_RECORD_TOO_LARGE = -100003
ERR_OFFSETS_FELL = -100004
ERR_TIMESTAMP_ZERO = -100005
ERR_LOG_REPLACED = -100006
ERR_QUEUE_TOO_SMALL = -100007


class Property(NamedTuple):
    """A configuration property of librdkafka."""

    #: ``*`` all clients, ``C`` consumers, ``P`` producers.
    clients: str
    #: Not one that takes a function or a pointer, which only a program can give.
    is_settable: bool


class ClientEvent(NamedTuple):
    """A log line (code 0) or a client-wide error of librdkafka."""

    level: int
    facility: str
    text: str
    code: int
    fatal: bool


class BlockReady(NamedTuple):
    """A sealed block of partition ``lane``."""

    lane: int
    block: RawBlock
    #: First offset after it that has not been seen: where the partition goes on.
    next_offset: int
    #: Of its last record (KIP-320); -1 where the broker doesn't tell.
    leader_epoch: int


class PartitionEnd(NamedTuple):
    """Partition ``lane`` has given all records below its end."""

    lane: int
    next_offset: int


class SourceError(NamedTuple):
    """An error of one partition (or of none: lane -1), as librdkafka or kbr words it."""

    lane: int
    code: int
    text: str
    offset: int


class Delivered(NamedTuple):
    """All records of a ticket's block are acknowledged."""

    ticket: int
    record_count: int
    record_bytes: int
    #: Target offsets of the first and the last of them: as told, or counted from the nearest record that was told of
    #: (a reply to a retried batch may not tell); -1 where no reply told any. They are ``record_count - 1`` apart unless
    #: another producer's records came between.
    first_offset: int
    last_offset: int


class Sent(NamedTuple):
    """What a call of produce() or resume() queued of a block.

    ``complete``: nothing of the block is left to queue.
    """

    ticket: int
    record_count: int
    record_bytes: int
    complete: bool


class SinkFailure(NamedTuple):
    """The first record that could not be written."""

    ticket: int
    code: int
    text: str
    #: The record's offset in the archive; -1 where a broker refused a batch, without a word about which record.
    source_offset: int
