"""The reading side of a worker: partitions' offset ranges in, blocks out.

Owns one kbr_codec Source and turns librdkafka's words into kbr's errors and client messages. It
decides nothing about segments or storage.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass

from kbr.errors import ConfigError, FetchFailed, KbrError, LogReplaced, OffsetOutOfRange
from kbr.kafka.native import load_library
from kbr.kafka.settings import ClientSettings, consumer_properties, login_files
from kbr.kafka.tokens import token_source
from kbr.kafka.translate import translate_code
from kbr.model import Anchor, OffsetRange, TopicPartition
from kbr.renewal import SeenFiles
from kbr.telemetry.events import ClientMessage
from kbr.telemetry.logs import get_logger
from kbr.wire import load_json
from kbr_codec import RawBlock
from kbr_codec.rdkafka import (
    ERR_HEADER_NUL,
    ERR_LOG_REPLACED,
    ERR_NO_MEMORY,
    ERR_OFFSETS_FELL,
    ERR_RECORD_TOO_LARGE,
    BlockReady,
    ClientConfigError,
    PartitionEnd,
    Source,
    SourceError,
)

__all__ = ["FetchedBlock", "PartitionEnded", "PartitionSource", "PartitionStopped", "SourceOptions"]

#: rd_kafka_resp_err_t RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN: every known broker connection is down.
_ALL_BROKERS_DOWN = -187

#: RD_KAFKA_RESP_ERR__SSL and __AUTHENTICATION: a broker that does not let us in. The first may come as a mere lost
#: connection, with the words of TLS.
_NOT_LET_IN = frozenset({-181, -169})
_TLS_WORDS = ("SSL", "tls")

_log = get_logger("kbr.kafka")

_NO_ANCHORS: Mapping[TopicPartition, Anchor] = {}

_OWN_REASONS = {
    ERR_HEADER_NUL: "a header name with a NUL byte, which librdkafka cuts: it can't be archived exactly",
    ERR_NO_MEMORY: "no memory for a record",
    ERR_RECORD_TOO_LARGE: "a record of more than 2 GiB",
    ERR_OFFSETS_FELL: "an offset came a second time: the broker's log went back",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceOptions:
    """How much a source may hold and what it may see.

    Attributes:
        memory_bytes: budget for fetched and half-encoded records of all partitions.
        block_bytes: a block is sealed at this size.
        open_bytes: all partitions' unsealed blocks together; the largest is sealed early above it.
        isolation_level: read_committed or read_uncommitted.
        bytes_per_s, records_per_s: no faster than this will be read, so no more than that is fetched ahead; 0 is
            no limit.
        timestamp_from, timestamp_to: records with other timestamps (ms, both included) are passed over.
    """

    memory_bytes: int
    block_bytes: int
    open_bytes: int
    isolation_level: str
    bytes_per_s: float = 0.0
    records_per_s: float = 0.0
    timestamp_from: int = -(2**63)
    timestamp_to: int = 2**63 - 1


@dataclass(frozen=True, slots=True)
class FetchedBlock:
    """A sealed block of the partition at ``index``; it goes on at ``next_offset``.

    ``leader_epoch`` is its last record's, -1 where it is not known.
    """

    index: int
    block: RawBlock
    next_offset: int
    leader_epoch: int


@dataclass(frozen=True, slots=True)
class PartitionEnded:
    """The partition at ``index`` has given every record below its end."""

    index: int
    next_offset: int


@dataclass(frozen=True, slots=True)
class PartitionStopped:
    """The partition at ``index`` can't be read further."""

    index: int
    error: KbrError


class PartitionSource:
    """Several partitions fetched through one client.

    Not for more than one thread; a context manager.
    """

    def __init__(
        self,
        settings: ClientSettings,
        options: SourceOptions,
        *,
        on_client_message: Callable[[ClientMessage], None],
    ) -> None:
        self._settings = settings
        self._options = options
        self._on_client_message = on_client_message
        self._source: Source | None = None
        #: Of clients that were closed for another: seconds waited, (records, bytes).
        self._waited_s = 0.0
        self._totals = (0, 0)
        self._ends: tuple[int, ...] = ()
        self._partitions: tuple[TopicPartition, ...] = ()
        #: By place: the position at which it was given, and the anchor. Behind it nothing was taken yet.
        self._anchors: dict[int, tuple[int, Anchor]] = {}
        #: Every broker is out of reach, as the client last said; anything that comes from one clears it.
        self.brokers_down = False
        #: Whether a broker has not let this client in, or none could be reached, since it was made.
        self._was_refused = False
        self._files = SeenFiles(())
        #: Counts how often the client was seen to have fetched further, whether records came of it or not.
        self.advances = 0
        #: By partition, where it fetches next, as it last said.
        self._fetching_at: dict[tuple[str, str], int] = {}

    def __enter__(self) -> PartitionSource:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def start(
        self,
        ranges: Sequence[tuple[TopicPartition, OffsetRange]],
        anchors: Mapping[TopicPartition, Anchor] = _NO_ANCHORS,
    ) -> None:
        """Begin to fetch. Events name a partition by its place in ``ranges``; empty ranges give none.

        Args:
            anchors: records that were read before, from before the ranges' beginnings: where the log holds other ones
                at their offsets now, the partition ends with LogReplaced. They have to be in the log still, but may
                be compacted away.

        Raises:
            ConfigError: librdkafka refused a property.
        """
        load_library()
        self._anchors = {
            index: (offsets.start_offset, anchor)
            for index, (partition, offsets) in enumerate(ranges)
            if (anchor := anchors.get(partition)) is not None
        }
        self._partitions = tuple(partition for partition, _ in ranges)
        self._ends = tuple(offsets.end_offset_exclusive for _, offsets in ranges)
        self._begin(self._new_source(len(ranges)), ranges)

    def _new_source(self, partition_count: int) -> Source:
        properties = consumer_properties(
            self._settings,
            memory_bytes=self._options.memory_bytes,
            partition_count=partition_count,
            isolation_level=self._options.isolation_level,
            bytes_per_s=self._options.bytes_per_s,
            records_per_s=self._options.records_per_s,
        )
        # first: what is changed while the client reads it is a change
        self._files = SeenFiles(login_files(properties))
        try:
            return Source(
                properties.items(),
                block_bytes=self._options.block_bytes,
                open_bytes=self._options.open_bytes,
                token_source=token_source(self._settings),
            )
        except ClientConfigError as error:
            # no "from": the original's text is the one that may show a secret
            raise ConfigError(
                f"librdkafka refused {self._settings.redact(str(error))}",
                hint="check source.security and source.client",
                property=error.name,
            ) from None

    def _begin(self, source: Source, ranges: Sequence[tuple[TopicPartition, OffsetRange]]) -> None:
        self._source = source
        self._was_refused = self.brokers_down = False
        source.start(
            (
                (partition.topic, partition.partition, offsets.start_offset, offsets.end_offset_exclusive)
                for partition, offsets in ranges
            ),
            # until something was taken: what comes after that is from the same log
            {
                index: anchor
                for index, (position, anchor) in self._anchors.items()
                if position == ranges[index][1].start_offset
            },
            timestamp_from=self._options.timestamp_from,
            timestamp_to=self._options.timestamp_to,
        )

    def reopen(self, options: SourceOptions, *, done: Container[int]) -> list[FetchedBlock]:
        """Go on with other options, through a new client.

        Args:
            done: places of the partitions that have ended.

        Returns:
            What the others had gathered.
        """
        self._options = options
        return self._go_on(None, done)

    def renew(self, *, done: Container[int]) -> list[FetchedBlock]:
        """Go on through a new client, where brokers don't let this one in and a file of its login has changed since it was made.

        Args:
            done: places of the partitions that have ended.

        Returns:
            What the others had gathered.
        """
        if not (self._was_refused and self._files.changed):
            return []
        try:
            source = self._new_source(len(self._partitions))
        except KbrError as error:  # the next change is waited for: they may be written one after the other
            _log.warning("files of the login have changed, and can't be used yet: %s", error)
            return []
        _log.info("files of the login have changed: fetching through a new client")
        return self._go_on(source, done)

    def _go_on(self, new: Source | None, done: Container[int]) -> list[FetchedBlock]:
        source = self._require()
        gathered = [block for index in range(len(self._partitions)) if index not in done and (block := self.flush(index))]
        ranges = []
        for index, partition in enumerate(self._partitions):
            position = source.position(index)
            end = position if index in done else self._ends[index]
            ranges.append((partition, OffsetRange(start_offset=position, end_offset_exclusive=end)))
        self._waited_s, self._totals = self.waited_s, self.totals
        self.close()
        self._begin(new or self._new_source(len(ranges)), ranges)
        return gathered

    def poll(
        self, timeout_ms: int, *, max_records: int = -1, max_bytes: int = -1
    ) -> list[FetchedBlock | PartitionEnded | PartitionStopped]:
        """Fetch until a block is full, a partition ends or fails, or ``timeout_ms`` have passed.

        Args:
            max_records, max_bytes: or until about so much was taken; negative for no bound.
        """
        source = self._require()
        found: list[FetchedBlock | PartitionEnded | PartitionStopped] = []
        for event in source.poll(timeout_ms, max_records=max_records, max_bytes=max_bytes):
            if isinstance(event, BlockReady):
                self.brokers_down = False
                found.append(FetchedBlock(event.lane, event.block, event.next_offset, event.leader_epoch))
            elif isinstance(event, PartitionEnd):
                found.append(PartitionEnded(event.lane, event.next_offset))
            elif event.lane >= 0:
                # what was gathered before the error is good; dropping it would leave a hole behind the position
                gathered = source.flush(event.lane)
                if gathered is not None:
                    found.append(
                        FetchedBlock(gathered.lane, gathered.block, gathered.next_offset, gathered.leader_epoch)
                    )
                source.stop(event.lane)
                found.append(PartitionStopped(event.lane, self._error(event)))
            else:
                self._on_client_message(ClientMessage(level=3, facility="FETCH", text=event.text, client="consumer"))
        self._pass_on_client_events(source)
        return found

    def flush(self, index: int) -> FetchedBlock | None:
        """Seal what the partition has gathered so far; None when that is nothing."""
        event = self._require().flush(index)
        return None if event is None else FetchedBlock(event.lane, event.block, event.next_offset, event.leader_epoch)

    def stop(self, index: int) -> None:
        """Stop fetching one partition; what it gathered and did not flush is dropped."""
        self._require().stop(index)

    def short_of_end(self, for_s: float) -> list[PartitionStopped]:
        """Partitions whose log ends before the wanted end, and has not grown for so long: it was cut.

        They go on until stop(); what they gathered has to be flushed before that.
        """
        return [
            PartitionStopped(
                index,
                OffsetOutOfRange(
                    f"{self._partitions[index]}: the log ends at offset {self.position(index)}, before offset "
                    f"{self._ends[index]} that it had reached",
                    hint="it was cut (unclean leader election), or the topic was made anew",
                    topic=self._partitions[index].topic,
                    partition=self._partitions[index].partition,
                    offset=self.position(index),
                ),
            )
            for index in self._require().short_of_end(int(for_s * 1000))
        ]

    def position(self, index: int) -> int:
        """First offset of the partition that has not been seen."""
        return self._require().position(index)

    @property
    def open_count(self) -> int:
        """Partitions that have not ended."""
        return self._require().open_count

    @property
    def totals(self) -> tuple[int, int]:
        """(records, bytes of keys, values and headers) taken so far."""
        records, size = self._require().totals
        return self._totals[0] + records, self._totals[1] + size

    @property
    def waited_s(self) -> float:
        """How long poll() has waited for records, seconds."""
        return self._waited_s + (self._source.waited_s if self._source is not None else 0.0)

    def close(self) -> None:
        """Leave the brokers; again is fine."""
        if self._source is not None:
            self._source.close()
            self._source = None

    def _require(self) -> Source:
        if self._source is None:
            raise RuntimeError("the source is not started, or closed")
        return self._source

    def _error(self, event: SourceError) -> KbrError:
        partition = self._partitions[event.lane]
        if event.code == ERR_LOG_REPLACED:
            return LogReplaced(
                f"{partition}: the record at offset {event.offset} is not the one any more that was read there",
                hint="the log was cut (unclean leader election) and has grown since",
                topic=partition.topic,
                partition=partition.partition,
                offset=event.offset,
            )
        own = _OWN_REASONS.get(event.code)
        if own is not None:
            return FetchFailed(
                f"{partition} at offset {event.offset}: {own}",
                hint="the partition's earlier records are kept; leave it out, or report the record's producer",
                topic=partition.topic,
                partition=partition.partition,
                offset=event.offset,
            )
        return translate_code(
            event.code,
            event.text,
            topic=partition.topic,
            partition=partition.partition,
            offset=event.offset,
            principal=self._settings.principal,
        )

    def _pass_on_client_events(self, source: Source) -> None:
        for level, facility, text, code, _fatal in source.client_events():
            if facility == "STATS":
                self._take_statistics(text)
                continue
            if code == _ALL_BROKERS_DOWN:
                self.brokers_down = True
            if code in _NOT_LET_IN or code == _ALL_BROKERS_DOWN or any(word in text for word in _TLS_WORDS):
                self._was_refused = True
            self._on_client_message(ClientMessage(level=level, facility=facility, text=text, client="consumer"))

    def _take_statistics(self, text: str) -> None:
        """See whether any partition is fetched further along than it was: records of aborted transactions are read too.

        Raises no error, whatever it says: librdkafka's statistics are for people first.
        """
        try:
            found = {
                (topic, partition): at
                for topic, facts in load_json(text.encode())["topics"].items()
                for partition, places in facts["partitions"].items()
                if isinstance(at := places.get("next_offset"), int) and at >= 0
            }
        except (ValueError, KeyError, TypeError, AttributeError):
            return
        if any(at > self._fetching_at.get(place, at) for place, at in found.items()):
            self.advances += 1
            self.brokers_down = False
        self._fetching_at = found
