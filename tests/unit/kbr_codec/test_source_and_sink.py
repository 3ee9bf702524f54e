"""Source and sink on librdkafka's own mock cluster: records through the C API, both ways, byte for byte."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kbr.kafka.native import load_library
from kbr_codec import Corrupt, Record, decode_block, encode_block
from kbr_codec.rdkafka import (
    ERR_HEADER_NUL,
    BlockReady,
    ClientConfigError,
    MockCluster,
    PartitionEnd,
    Sink,
    Source,
    SourceError,
)

ALL = {"offset_from": 0, "offset_to_exclusive": 2**63 - 1, "timestamp_from": -(2**63), "timestamp_to": 2**63 - 1}
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
