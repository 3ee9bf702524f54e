"""Source and sink on librdkafka's own mock cluster: records through the C API, both ways, byte for byte."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress

import pytest

from kbr.kafka.native import load_library
from kbr_codec import Corrupt, Record, decode_block, encode_block
from kbr_codec.rdkafka import (
    ERR_HEADER_NUL,
    ERR_LOG_REPLACED,
    ERR_QUEUE_TOO_SMALL,
    BlockReady,
    ClientConfigError,
    MockCluster,
    PartitionEnd,
    Sink,
    Source,
    SourceError,
)

ALL = {"offset_from": 0, "offset_to_exclusive": 2**63 - 1, "timestamp_from": -(2**63), "timestamp_to": 2**63 - 1}
#: Kafka's protocol guide.
API_PRODUCE = 0
API_INIT_PRODUCER_ID = 22
ODD = [
    Record(0, 1_714_564_800_000, 1, b"k", b"v", ()),
    Record(1, 1_714_564_700_000, 1, None, None, ()),
    Record(2, 5, 1, b"", b"", ((b"a", None), (b"a", b""), (b"a", b"1"))),
    Record(3, 7, 1, b"\x00\xff", b"\x00" * 10, ((b"\xff\xfe", b"not utf-8"), (b"", b"no name"))),
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[MockCluster]:
    load_library()
    cluster = MockCluster(brokers=1)
    yield cluster
    cluster.close()


def _sink(cluster: MockCluster, **more: int) -> Sink:
    return Sink([("bootstrap.servers", cluster.bootstrap_servers), ("linger.ms", "1")], **more)


def _source(cluster: MockCluster, block_bytes: int = 1 << 20, open_bytes: int = 0) -> Source:
    properties = {
        "bootstrap.servers": cluster.bootstrap_servers,
        "auto.offset.reset": "error",
        "enable.partition.eof": "true",
        "fetch.wait.max.ms": "10",
    }
    return Source(properties.items(), block_bytes=block_bytes, open_bytes=open_bytes or 64 * block_bytes)


def _produce(cluster: MockCluster, topic: str, records: list[Record], **window: int) -> int:
    sink = _sink(cluster)
    sent = sink.produce(sink.open_topic(topic), 0, encode_block(records), **{**ALL, **window})
    assert sent.complete
    while sink.open_count:
        sink.poll(100)
        assert sink.failure() is None
    sink.close()
    return sent.record_count


def _consume(source: Source) -> tuple[list[Record], list[object]]:
    records: list[Record] = []
    others: list[object] = []
    for _ in range(200):
        for event in source.poll(100):
            if isinstance(event, BlockReady):
                records.extend(decode_block(event.block))
            else:
                others.append(event)
        if not source.open_count or any(isinstance(one, SourceError) for one in others):
            return records, others
    raise AssertionError("no end within 20 s")


def test_odd_records_go_through_both_ways_byte_for_byte(cluster: MockCluster) -> None:
    cluster.create_topic("odd", partitions=1)
    assert _produce(cluster, "odd", ODD) == len(ODD)
    source = _source(cluster)
    source.start([("odd", 0, 0, len(ODD))])
    records, others = _consume(source)
    source.close()
    assert records == ODD
    assert others == [PartitionEnd(0, len(ODD))]


def test_no_record_at_or_past_the_end_is_given(cluster: MockCluster) -> None:
    cluster.create_topic("bounded", partitions=1)
    _produce(cluster, "bounded", [Record(n, 1000 + n, 1, None, b"v%d" % n, ()) for n in range(500)])
    source = _source(cluster, block_bytes=1024)
    source.start([("bounded", 0, 100, 321)])
    records, others = _consume(source)
    source.close()
    assert [record.offset for record in records] == list(range(100, 321))
    assert others == [PartitionEnd(0, 321)]


def test_only_records_of_a_window_of_time_are_taken_each_looked_at_for_itself(cluster: MockCluster) -> None:
    cluster.create_topic("timed", partitions=1)
    stamps = [50, 10, 51, 70, 49, 60, 61, 5, 55]
    _produce(cluster, "timed", [Record(n, stamp, 1, None, b"v%d" % n, ()) for n, stamp in enumerate(stamps)])
    for end, expected in ((9, [0, 2, 5, 8]), (8, [0, 2, 5]), (2, [0])):
        source = _source(cluster)
        source.start([("timed", 0, 0, end)], timestamp_from=50, timestamp_to=60)
        records, others = _consume(source)
        assert [(one.offset, one.timestamp) for one in records] == [(n, stamps[n]) for n in expected]
        # what is passed over counts as seen, and as read
        assert (others, source.position(0), source.totals[0]) == ([PartitionEnd(0, end)], end, end)
        source.close()


def test_a_block_answers_for_what_was_passed_over_behind_its_last_record(cluster: MockCluster) -> None:
    cluster.create_topic("passed", partitions=1)
    _produce(cluster, "passed", [Record(n, 50 if n < 3 else 99, 1, None, b"v", ()) for n in range(9)])
    source = _source(cluster)
    source.start([("passed", 0, 0, 100)], timestamp_to=60)
    for _ in range(100):
        source.poll(100)
        if source.position(0) == 9:
            break
    block = source.flush(0)
    assert block is not None
    assert (block.block.stats.record_count, block.next_offset) == (3, 9)
    source.close()


def test_a_poll_in_which_everything_is_passed_over_ends_in_time(cluster: MockCluster) -> None:
    cluster.create_topic("nothing", partitions=1)
    _produce(cluster, "nothing", [Record(n, 99, 1, None, b"v" * 100, ()) for n in range(20_000)])
    source = _source(cluster)
    source.start([("nothing", 0, 0, 20_000)], timestamp_to=60)
    polls = 0
    while source.open_count:
        assert not [one for one in source.poll(0) if isinstance(one, BlockReady)]
        polls += 1
        assert polls < 10_000_000
    assert polls > 10
    source.close()


def _read_anchored(cluster: MockCluster, start: int, anchor: tuple[int, int, int]) -> tuple[list[Record], list[SourceError]]:
    source = _source(cluster)
    source.start([("anchored", 0, start, 100)], {0: anchor})
    records: list[Record] = []
    errors: list[SourceError] = []
    for _ in range(200):
        for event in source.poll(100):
            if isinstance(event, BlockReady):
                records += decode_block(event.block)
            elif isinstance(event, SourceError):
                errors.append(event)
                assert source.position(0) == start
                assert source.flush(0) is None
        if not source.open_count:
            break
    source.close()
    return records, errors


def test_a_log_that_holds_another_record_than_was_read_is_told_and_nothing_of_it_is_taken(cluster: MockCluster) -> None:
    cluster.create_topic("anchored", partitions=1)
    wanted = [Record(n, 1000 + n, 1, b"k%d" % n, b"v", ()) for n in range(100)]
    assert _produce(cluster, "anchored", wanted) == 100
    for same in ((39, 1039, -1), (20, 1020, -1)):
        assert _read_anchored(cluster, 40, same) == (wanted[40:], [])
    for other in ((39, 1038, -1), (20, 1021, -1)):
        records, (error,) = _read_anchored(cluster, 40, other)
        assert records == []
        assert (error.lane, error.code, error.offset) == (0, ERR_LOG_REPLACED, other[0])
    source = _source(cluster)
    with pytest.raises(ValueError, match="an anchor behind the start"):
        source.start([("anchored", 0, 40, 100)], {0: (40, 1040, -1)})
    source.close()


def test_many_open_partitions_stay_within_their_common_bound_and_lose_nothing(cluster: MockCluster) -> None:
    """Forty partitions of 50 kB, blocks of up to 1 MiB, 64 KiB for all: without the bound each would be one block."""
    cluster.create_topic("many", partitions=40)
    wanted = [Record(n, 1000 + n, 1, b"k%d" % n, b"v" * 500, ()) for n in range(100)]
    sink = _sink(cluster)
    topic = sink.open_topic("many")
    for first in range(0, 100, 10):  # ten batches each, as a batch is always given whole
        for partition in range(40):
            sink.produce(topic, partition, encode_block(wanted[first : first + 10]), **ALL)
        while sink.open_count:
            sink.poll(100)
            assert sink.failure() is None
    sink.close()
    source = Source(
        [
            ("bootstrap.servers", cluster.bootstrap_servers),
            ("auto.offset.reset", "error"),
            ("enable.partition.eof", "true"),
            ("fetch.wait.max.ms", "10"),
            ("fetch.message.max.bytes", "4096"),  # partitions come in turns, so that many are open at once
        ],
        block_bytes=1 << 16,
        open_bytes=1 << 16,
    )
    source.start([("many", partition, 0, 100) for partition in range(40)])
    found: dict[int, list[Record]] = {}
    blocks = 0
    ends = []
    for _ in range(200):
        for event in source.poll(100):
            if isinstance(event, BlockReady):
                blocks += 1
                found.setdefault(event.lane, []).extend(decode_block(event.block))
            else:
                ends.append(event)
        if not source.open_count:
            break
    source.close()
    assert sorted(ends) == [PartitionEnd(partition, 100) for partition in range(40)]
    assert found == dict.fromkeys(range(40), wanted)
    assert blocks > 40


def test_a_bound_that_holds_no_block_is_refused(cluster: MockCluster) -> None:
    with pytest.raises(ValueError, match="open_bytes"):
        _source(cluster, block_bytes=1 << 20, open_bytes=1 << 19)


@pytest.mark.fault("K6", "an offset that is gone is never a jump", promise=2)
def test_an_offset_out_of_range_is_an_error_and_never_a_jump(cluster: MockCluster) -> None:
    cluster.create_topic("short", partitions=1)
    _produce(cluster, "short", ODD)
    source = _source(cluster)
    source.start([("short", 0, 1_000_000, 2_000_000)])
    records, others = _consume(source)
    source.close()
    assert records == []
    assert isinstance(others[0], SourceError)


def test_only_records_of_the_window_are_sent(cluster: MockCluster) -> None:
    cluster.create_topic("window", partitions=1)
    records = [Record(n, n * 10, 1, None, b"%d" % n, ()) for n in range(1, 100)]
    assert _produce(cluster, "window", records, timestamp_from=200, timestamp_to=300) == 11
    assert _produce(cluster, "window", records, offset_from=5, offset_to_exclusive=7) == 2
    assert _produce(cluster, "window", records, timestamp_from=5000) == 0


def test_a_damaged_block_sends_nothing(cluster: MockCluster) -> None:
    sink = _sink(cluster)
    topic = sink.open_topic("odd")
    with pytest.raises(Corrupt):
        sink.produce(topic, 0, encode_block(ODD) + b"x", **ALL)
    assert sink.open_count == 0
    sink.close()


@pytest.mark.fault("R6", "timestamp 0", promise=5)
def test_timestamp_zero_is_refused_or_replaced_but_never_becomes_now(cluster: MockCluster) -> None:
    cluster.create_topic("zero", partitions=1)
    block = encode_block([Record(9, 0, 1, None, b"1970", ())])
    sink = _sink(cluster)
    sink.produce(sink.open_topic("zero"), 0, block, **ALL)
    failure = sink.failure()
    assert failure is not None
    assert failure.source_offset == 9
    sink.close()
    sink = _sink(cluster, zero_timestamp_as=1)
    sink.produce(sink.open_topic("zero"), 0, block, **ALL)
    while sink.open_count:
        sink.poll(100)
    assert sink.zero_timestamps == 1
    sink.close()
    source = _source(cluster)
    source.start([("zero", 0, 0, 1)])
    records, _others = _consume(source)
    source.close()
    assert [record.timestamp for record in records] == [1]


def test_a_refused_property_is_named(cluster: MockCluster) -> None:
    with pytest.raises(ClientConfigError) as caught:
        Source([("no.such.property", "1")], block_bytes=1 << 20, open_bytes=1 << 20)
    assert caught.value.name == "no.such.property"


def test_closing_with_records_under_way_is_safe(cluster: MockCluster) -> None:
    """Values are read from the block's own memory: it must outlive the queue."""
    cluster.create_topic("cut", partitions=1)
    for _ in range(20):
        sink = _sink(cluster)
        topic = sink.open_topic("cut")
        for _ in range(3):
            sink.produce(topic, 0, encode_block([Record(n, 1, 1, b"k", b"v" * 500, ()) for n in range(300)]), **ALL)
        sink.close()
        source = _source(cluster)
        source.start([("odd", 0, 0, 4)])
        source.poll(1)
        source.close()


@pytest.mark.fault("R6", "a header name with NUL", promise=4)
def test_a_header_name_with_a_nul_stops_its_partition_and_is_never_cut(cluster: MockCluster) -> None:
    cluster.create_topic("nul", partitions=1)
    records = [Record(0, 1, 1, None, b"before", ()), Record(1, 1, 1, None, b"it", ((b"a\x00b", b"value"),))]
    _produce(cluster, "nul", records)
    source = _source(cluster)
    source.start([("nul", 0, 0, 2)])
    found, others = _consume(source)
    (error,) = others
    assert isinstance(error, SourceError)
    assert (error.code, error.offset) == (ERR_HEADER_NUL, 1)
    assert [record.value for record in found] == [b"before"]
    assert source.position(0) == 1
    source.close()


def test_a_block_goes_out_in_pieces_each_record_once_and_in_order(cluster: MockCluster) -> None:
    cluster.create_topic("pieces", partitions=1)
    wanted = [Record(n, 1000 + n, 1, None, b"v%03d" % n, ()) for n in range(100)]
    sink = _sink(cluster)
    sent = sink.produce(sink.open_topic("pieces"), 0, encode_block(wanted), **ALL, max_records=7)
    pieces = [sent]
    while not sent.complete:
        assert sink.poll(0) == []  # nothing is delivered before the last piece
        sent = sink.resume(sent.ticket, max_bytes=30) if len(pieces) % 2 else sink.resume(sent.ticket, max_records=1)
        pieces.append(sent)
    with pytest.raises((KeyError, ValueError)):
        sink.resume(sent.ticket)
    assert pieces[0].record_count == 7
    # the record that reaches a bound is the last one: 30 bytes are eight records of four
    assert {(one.record_count, one.record_bytes) for one in pieces[1:-1]} == {(8, 32), (1, 4)}
    delivered = []
    while sink.open_count:
        delivered += sink.poll(100)
    sink.close()
    assert [(one.record_count, one.record_bytes) for one in delivered] == [(100, 400)]
    source = _source(cluster)
    source.start([("pieces", 0, 0, 100)])
    records, _ = _consume(source)
    source.close()
    assert records == wanted


def test_a_block_that_is_abandoned_tells_what_was_sent_of_it(cluster: MockCluster) -> None:
    cluster.create_topic("abandoned", partitions=1)
    block = encode_block([Record(n, 1000 + n, 1, None, b"v", ()) for n in range(100)])
    sink = _sink(cluster)
    topic = sink.open_topic("abandoned")
    sent = sink.produce(topic, 0, block, **ALL, max_records=3)
    sink.abandon(sent.ticket)
    with pytest.raises((KeyError, ValueError)):
        sink.abandon(sent.ticket)
    delivered = []
    while sink.open_count:
        delivered += sink.poll(100)
    assert [(one.ticket, one.record_count) for one in delivered] == [(sent.ticket, 3)]
    # nothing of it lies in the window: complete at once, and never delivered
    nothing = sink.produce(topic, 0, block, **{**ALL, "offset_from": 1000}, max_records=3)
    assert (nothing.record_count, nothing.complete, sink.open_count) == (0, True, 0)
    # a sink that is closed in the middle of a block lets go of it
    sink.produce(topic, 0, block, **ALL, max_records=3)
    sink.close()
    with pytest.raises(RuntimeError):
        sink.resume(0)


def test_a_poll_takes_no_more_than_it_is_allowed(cluster: MockCluster) -> None:
    cluster.create_topic("allowed", partitions=1)
    wanted = [Record(n, 1000 + n, 1, None, b"v%03d" % n, ()) for n in range(200)]
    _produce(cluster, "allowed", wanted)
    source = _source(cluster)
    source.start([("allowed", 0, 0, 200)])
    found: list[Record] = []
    steps = set()
    for number in range(2000):
        before = source.totals
        bounds = {"max_records": 3} if number % 2 else {"max_bytes": 30}
        for event in source.poll(20, **bounds):
            if isinstance(event, BlockReady):
                found.extend(decode_block(event.block))
        steps.add((source.totals[0] - before[0], tuple(bounds)))
        if not source.open_count:
            break
    source.close()
    assert found == wanted
    assert max(count for count, kind in steps if kind == ("max_records",)) == 3
    assert max(count for count, kind in steps if kind == ("max_bytes",)) == 8


def test_a_sink_that_has_connected_has_its_id_and_one_without_a_broker_says_so_in_time(cluster: MockCluster) -> None:
    cluster.create_topic("connected", partitions=1)
    idempotent = [("bootstrap.servers", cluster.bootstrap_servers), ("enable.idempotence", "true"), ("debug", "eos")]
    sink = Sink(idempotent)
    assert sink.connect(10_000)
    seen: list[str] = []
    for _ in range(400):  # its answer to the id is a request of its own
        sink.poll(25)
        seen += [event.text for event in sink.client_events()]
        if any("Acquired PID" in text for text in seen):
            break
    assert sum("Acquiring ProducerId" in text for text in seen) == 1
    sink.close()
    with pytest.raises(RuntimeError, match="closed"):
        sink.connect(1)
    alone = Sink([("bootstrap.servers", "127.0.0.1:1"), ("enable.idempotence", "true")])
    assert not alone.connect(200)
    alone.close()


def test_acknowledged_blocks_tell_their_offsets_and_show_records_that_came_between(cluster: MockCluster) -> None:
    sink = _sink(cluster)
    topic = sink.open_topic("told")

    def send(first: int, count: int) -> tuple[int, int, int]:
        records = [Record(first + number, 1, 1, None, b"v", ()) for number in range(count)]
        sink.produce(topic, 0, encode_block(records), **ALL)
        while not (found := sink.poll(100)):
            assert sink.failure() is None
        return found[0].record_count, found[0].first_offset, found[0].last_offset

    assert send(0, 5) == (5, 0, 4)
    assert send(5, 3) == (3, 5, 7)
    _produce(cluster, "told", [Record(0, 1, 1, None, b"somebody else's", ())])
    assert send(8, 2) == (2, 9, 10)
    sink.close()


def _nobody() -> list[tuple[str, str]]:
    """A client whose queue has room for one record, and whose broker is not there."""
    return [("bootstrap.servers", "127.0.0.1:1"), ("queue.buffering.max.messages", "1")]


def test_a_full_queue_gives_control_back_and_what_was_never_queued_is_never_delivered() -> None:
    load_library()
    sink = Sink(_nobody())
    topic = sink.open_topic("full")
    block = encode_block([Record(n, 1, 1, None, b"v", ()) for n in range(3)])
    first = sink.produce(topic, 0, block, **ALL)
    assert (first.record_count, first.complete) == (1, False)
    assert (sink.resume(first.ticket).record_count, sink.failure()) == (0, None)
    second = sink.produce(topic, 0, block, **ALL)
    assert (second.record_count, second.complete) == (0, False)
    assert sink.waited_s > 0
    assert sink.abandon(first.ticket)
    assert not sink.abandon(second.ticket)
    assert sink.open_count == 1
    sink.close()


def test_records_that_waited_for_room_arrive_once_in_order_and_with_their_headers(cluster: MockCluster) -> None:
    cluster.create_topic("narrow", partitions=1)
    wanted = [Record(n, 1000 + n, 1, b"k", b"v%d" % n, ((b"h", b"%d" % n), (b"h", None))) for n in range(20)]
    sink = Sink([("bootstrap.servers", cluster.bootstrap_servers), ("queue.buffering.max.messages", "1")])
    sent = sink.produce(sink.open_topic("narrow"), 0, encode_block(wanted), **ALL)
    while not sent.complete:
        sent = sink.resume(sent.ticket)
    while sink.open_count:
        sink.poll(100)
    assert sink.failure() is None
    sink.close()
    source = _source(cluster)
    source.start([("narrow", 0, 0, 20)])
    records, _ = _consume(source)
    source.close()
    assert records == wanted


def test_a_record_that_never_fits_into_the_queue_is_an_error_that_names_it(cluster: MockCluster) -> None:
    cluster.create_topic("huge", partitions=1)
    sink = Sink([("bootstrap.servers", cluster.bootstrap_servers), ("queue.buffering.max.kbytes", "1")])
    block = encode_block([Record(6, 1, 1, None, b"small", ()), Record(7, 1, 1, None, bytes(5000), ())])
    sent = sink.produce(sink.open_topic("huge"), 0, block, **ALL)
    while not sent.complete and sink.failure() is None:
        sent = sink.resume(sent.ticket)
    failure = sink.failure()
    assert failure is not None
    assert (failure.code, failure.ticket, failure.source_offset) == (ERR_QUEUE_TOO_SMALL, sent.ticket, 7)
    sink.close()


@pytest.mark.parametrize("code", [10, 29, 32, 87], ids=["size", "authorization", "timestamp", "record"])
def test_what_a_broker_refuses_is_told_by_its_own_code_and_its_block(cluster: MockCluster, code: int) -> None:
    """librdkafka's first word is a fatal error: that the guarantee of no gaps can't be kept."""
    topic = f"refused-{code}"
    cluster.create_topic(topic, partitions=1)
    gapless = [("enable.idempotence", "true"), ("enable.gapless.guarantee", "true"), ("linger.ms", "1")]
    sink = Sink([("bootstrap.servers", cluster.bootstrap_servers), *gapless])
    number = sink.open_topic(topic)
    taken = sink.produce(number, 0, encode_block([Record(3, 1, 1, None, b"taken", ())]), **ALL)
    while taken.ticket not in [one.ticket for one in sink.poll(100)]:
        assert sink.failure() is None
    cluster.refuse(API_PRODUCE, code)
    sent = sink.produce(number, 0, encode_block([Record(n, 1, 1, None, b"refused", ()) for n in range(4, 8)]), **ALL)
    while (failure := sink.failure()) is None:
        sink.poll(100)
    assert (failure.code, failure.ticket) == (code, sent.ticket)
    sink.close()


def test_a_producer_that_is_refused_itself_is_told_so_by_the_brokers_code(cluster: MockCluster) -> None:
    cluster.refuse(API_INIT_PRODUCER_ID, 31)  # CLUSTER_AUTHORIZATION_FAILED
    sink = Sink([("bootstrap.servers", cluster.bootstrap_servers), ("enable.idempotence", "true")])
    while (failure := sink.failure()) is None:
        sink.poll(100)
    assert failure.code == 31
    sink.close()


def test_sockets_drop_what_was_not_sent_when_their_process_ends(cluster: MockCluster) -> None:
    sink = Sink([("bootstrap.servers", cluster.bootstrap_servers)])
    assert sink.connect(10_000)
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError), socket.socket(fileno=os.dup(int(name))) as one:
            if one.getpeername() == ("127.0.0.1", int(cluster.bootstrap_servers.rpartition(":")[2])):
                lingering = struct.unpack("ii", one.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8))
                found.add((lingering, os.get_inheritable(int(name))))
    sink.close()
    assert found == {((1, 0), False)}
