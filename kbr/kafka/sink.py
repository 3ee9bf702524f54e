"""The writing side of a worker: blocks in, acknowledged records out.

Owns one kbr_codec Sink and turns librdkafka's words into kbr's errors and client messages. The
first record that can't be written ends it: nothing is sent after a hole.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kbr.errors import ConfigError, KbrError, ProduceFailed
from kbr.kafka.native import load_library
from kbr.kafka.settings import ClientSettings, login_files, producer_properties
from kbr.kafka.tokens import token_source
from kbr.kafka.translate import translate_code
from kbr.model import TopicPartition
from kbr.renewal import SeenFiles
from kbr.telemetry.events import ClientMessage
from kbr_codec import RawBlock
from kbr_codec.rdkafka import (
    ERR_QUEUE_TOO_SMALL,
    ERR_TIMESTAMP_ZERO,
    ClientConfigError,
    Delivered,
    Sent,
    Sink,
    SinkFailure,
)

__all__ = ["BlockSink", "RecordRoute", "RecordWindow", "SinkOptions"]

_OFFSET_MAX = 2**63 - 1
_TIMESTAMP_MIN = -(2**63)


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkOptions:
    """How a sink sends.

    Attributes:
        memory_bytes: budget for records queued in the client.
        compression: the wire codec: none, lz4, zstd, snappy or gzip.
        zero_timestamp_as: what to send for timestamp 0; 0 refuses such records.
        original_offset_header: name of the header that holds the source offset; empty for none.
        batch_bytes: largest batch, before compression.
        largest_record_bytes: of those to come, where that may be more than the budget: there has to be room for one.
    """

    memory_bytes: int
    compression: str
    zero_timestamp_as: int
    original_offset_header: bytes
    batch_bytes: int
    largest_record_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordRoute:
    """Only the records that a partitioner gives to the target's partition; by default all.

    Attributes:
        partitioner: of kbr_codec.Partitioner.
        partition_count: of the target topic.
        position: of the block's first record.
    """

    partitioner: int = 0
    partition_count: int = 0
    position: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordWindow:
    """Which records of a block to send: source offsets (end not included), timestamps in ms (both included), a route."""

    offset_from: int = 0
    offset_to_exclusive: int = _OFFSET_MAX
    timestamp_from: int = _TIMESTAMP_MIN
    timestamp_to: int = _OFFSET_MAX
    route: RecordRoute = RecordRoute()


class BlockSink:
    """A producer for blocks of several partitions.

    Not for more than one thread; a context manager.
    """

    def __init__(
        self,
        settings: ClientSettings,
        options: SinkOptions,
        *,
        on_client_message: Callable[[ClientMessage], None],
    ) -> None:
        load_library()
        self._options = options
        self._principal = settings.principal
        #: Gets librdkafka's lines; another task of the same process may take over.
        self.on_client_message = on_client_message
        properties = producer_properties(
            settings,
            memory_bytes=options.memory_bytes,
            compression=options.compression,
            batch_bytes=options.batch_bytes,
            largest_record_bytes=options.largest_record_bytes,
        )
        # first: what is changed while the client reads it is a change
        self._files = SeenFiles(login_files(properties))
        try:
            self._sink = Sink(
                properties.items(), zero_timestamp_as=options.zero_timestamp_as, token_source=token_source(settings)
            )
        except ClientConfigError as error:
            # no "from": the original's text is the one that may show a secret
            raise ConfigError(
                f"librdkafka refused {settings.redact(str(error))}",
                hint="check target.security and target.client",
                property=error.name,
            ) from None
        self._topics: dict[str, int] = {}
        self._open: dict[int, TopicPartition] = {}

    def __enter__(self) -> BlockSink:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def connect(self, timeout_ms: int) -> bool:
        """Wait until a broker answers, at most so long; whether one did.

        Not needed, but the first record of a client that has not done it waits for half a second.
        """
        return self._sink.connect(timeout_ms)

    def send(
        self,
        target: TopicPartition,
        block: bytes | RawBlock,
        window: RecordWindow,
        *,
        max_records: int = -1,
        max_bytes: int = -1,
    ) -> Sent:
        """Queue the block's records that lie in the window; waits a moment while the client's queue is full.

        Args:
            max_records, max_bytes: about so much at most (negative: no bound); send_more() goes on.

        Returns:
            What was queued; nothing yet, it may be, while the queue is full. The ticket's Delivered comes from poll()
            when it is complete, unless none of its records lay in the window.

        Raises:
            ProduceFailed: a record can't be written; nothing is sent after it.
            CodecError: it is no block; nothing of it was queued.
        """
        topic = self._topics.get(target.topic)
        if topic is None:
            topic = self._topics[target.topic] = self._sink.open_topic(target.topic)
        sent = self._sink.produce(
            topic,
            target.partition,
            block,
            offset_from=window.offset_from,
            offset_to_exclusive=window.offset_to_exclusive,
            timestamp_from=window.timestamp_from,
            timestamp_to=window.timestamp_to,
            original_offset_header=self._options.original_offset_header,
            max_records=max_records,
            max_bytes=max_bytes,
            partitioner=window.route.partitioner,
            partition_count=window.route.partition_count,
            position=window.route.position,
        )
        if sent.record_count or not sent.complete:
            self._open[sent.ticket] = target
        self._check(target, sent.ticket)
        return sent

    def send_more(self, ticket: int, *, max_records: int = -1, max_bytes: int = -1) -> Sent:
        """Queue more of a block that is not complete.

        Raises:
            ProduceFailed: a record can't be written; nothing is sent after it.
        """
        sent = self._sink.resume(ticket, max_records=max_records, max_bytes=max_bytes)
        self._check(self._open.get(ticket), ticket)
        return sent

    def send_whole(self, target: TopicPartition, block: bytes | RawBlock, window: RecordWindow) -> int:
        """Queue all of the block's records that lie in the window, however long that takes; how many they are.

        Raises:
            As send().
        """
        sent = self.send(target, block, window)
        count = sent.record_count
        while not sent.complete:
            sent = self.send_more(sent.ticket)
            count += sent.record_count
        return count

    def abandon(self, ticket: int) -> bool:
        """Queue no more of a block that is not complete.

        Returns:
            Whether any of it was queued: only then its Delivered comes, and tells how much.
        """
        return self._sink.abandon(ticket)

    def poll(self, timeout_ms: int) -> list[Delivered]:
        """Wait up to ``timeout_ms`` for acknowledgements.

        Raises:
            ProduceFailed: a record was refused.
        """
        delivered = self._sink.poll(timeout_ms)
        for message in self._sink.client_events():
            if message.facility == "CONFWARN":
                continue  # it warns of enable.gapless.guarantee, which kbr sets on purpose
            self.on_client_message(
                ClientMessage(level=message.level, facility=message.facility, text=message.text, client="producer")
            )
        self._check(None, None)
        for report in delivered:
            self._open.pop(report.ticket, None)
        return delivered

    @property
    def open_count(self) -> int:
        """Blocks whose records are not all acknowledged."""
        return self._sink.open_count

    @property
    def has_old_login(self) -> bool:
        """Whether a file of the login has changed since the client was made, which does not read it again."""
        return self._files.changed

    @property
    def acknowledged_total(self) -> int:
        """Records acknowledged so far."""
        return self._sink.acknowledged_total

    @property
    def waited_s(self) -> float:
        """How long sending has waited for room in the client's queue, seconds."""
        return self._sink.waited_s

    @property
    def changed_timestamps(self) -> int:
        """Records whose timestamp 0 was sent as ``zero_timestamp_as``."""
        return self._sink.zero_timestamps

    def close(self) -> None:
        """Drop what is not yet sent and leave the brokers; again is fine."""
        self._sink.close()

    def _check(self, target: TopicPartition | None, ticket: int | None) -> None:
        failure = self._sink.failure()
        if failure is None:
            return
        place = target if failure.ticket == ticket and target is not None else self._open.get(failure.ticket)
        raise self._error(failure, place)

    def _error(self, failure: SinkFailure, place: TopicPartition | None) -> KbrError:
        topic = place.topic if place is not None else ""
        partition = place.partition if place is not None else -1
        if failure.code == ERR_TIMESTAMP_ZERO:
            return ProduceFailed(
                f"{place}: the archived record at offset {failure.source_offset} has timestamp 0, which librdkafka "
                "takes for the time of sending",
                hint="set restore.zero_timestamp_as to the milliseconds to send instead, for example 1",
                topic=topic,
                partition=partition,
                offset=failure.source_offset,
            )
        if failure.code == ERR_QUEUE_TOO_SMALL:
            return ProduceFailed(
                f"{place}: the archived record at offset {failure.source_offset} is larger than all that the client may "
                "hold (queue.buffering.max.kbytes)",
                hint="remove queue.buffering.max.kbytes from target.client, or raise it beyond the largest record "
                "(kbr describe tells its size)",
                topic=topic,
                partition=partition,
                offset=failure.source_offset,
            )
        return translate_code(
            failure.code,
            failure.text,
            topic=topic,
            partition=partition,
            offset=failure.source_offset,
            producing=True,
            principal=self._principal,
        )
