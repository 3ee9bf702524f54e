# cython: language_level=3
"""Source: fetched records of many partitions straight into blocks, without the GIL.

Owns one consumer handle and one queue to which all its partitions' records come. It knows offsets
and blocks; it knows no storage and makes no decision about errors: it reports them.

librdkafka's simple consumer is used (rd_kafka_consume_start_queue), so that no group.id, no
coordinator and no group right is needed.
"""

cimport cython
from libc.stdint cimport INT64_MAX, INT64_MIN, int32_t, int64_t, uint8_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport strlen

from .._block cimport RawBlock
from .._builder cimport (
    BUILD_NO_MEMORY, BUILD_OK, block_stats, builder, builder_add, builder_add_header, builder_begin_headers,
    builder_capacity, builder_clear, builder_free, builder_init, builder_seal, builder_size,
)
from ._api cimport (
    ERR_PARTITION_EOF, EVENT_STATS, TYPE_CONSUMER, message, monotonic_ms, new_handle, rd, require_loaded, take_events,
)

from ._events import BlockReady, PartitionEnd, SourceError

__all__ = ["Source"]

cdef enum:
    BATCH = 1000            # messages taken from the queue at once: 8 kB of pointers
    READY_MAX = 64          # sealed blocks handed over at once
    FAILURES_MAX = 64
    TEXT_MAX = 384
    # reasons of our own, outside librdkafka's codes
    ERR_HEADER_NUL = -100001
    ERR_NO_MEMORY = -100002
    ERR_RECORD_TOO_LARGE = -100003
    ERR_OFFSETS_FELL = -100004
    ERR_LOG_REPLACED = -100006


cdef struct lane:
    # one partition
    void *rkt
    int32_t partition
    int64_t next_offset      # first offset not yet seen
    int64_t sealed_offset    # first offset that no sealed block answers for
    int64_t end_offset       # exclusive
    int64_t anchor_offset    # a record that was taken before; -1 for none, or when it has been looked at
    int64_t anchor_timestamp
    int32_t anchor_epoch     # -1 for unknown
    int32_t leader_epoch     # of the last record that was taken; -1 for unknown
    int done                 # nothing more is wanted or can be had
    int64_t at_log_end_ms    # since when the log has been read to its end, short of end_offset; 0 if it is not
    size_t counted           # of the build's bytes, those that are in open_total
    builder build


cdef struct ready_block:
    int32_t lane
    uint8_t *data
    size_t size
    int64_t next_offset
    int32_t leader_epoch
    block_stats stats


cdef struct failure:
    int32_t lane
    int code
    int64_t offset
    char text[TEXT_MAX]


cdef struct topic_lanes:
    # a topic's opaque: partition -> lane index, -1 for none
    int32_t count
    int32_t *lanes


cdef bint names_have_nul(void *headers) noexcept nogil:
    """Whether a header's name holds a NUL byte.

    librdkafka's API gives names NUL-terminated, so a NUL inside one cuts it without a word. Its
    allocation is name, NUL, value, NUL (rdkafka_header.c): a value that doesn't follow its name's
    NUL tells. A null value has no place to tell by.
    """
    cdef const char *name
    cdef const void *value
    cdef size_t size, i
    for i in range(rd.header_cnt(headers)):
        if (rd.header_get_all(headers, i, &name, &value, &size) == 0 and value != NULL
                and <const char *>value != name + strlen(name) + 1):
            return True
    return False


# Its end uses what it holds of Python (lists of handles, tickets, the callback that librdkafka's thread may be in): the
# collector must not take that away first, where it finds it in a circle.
@cython.no_gc_clear
cdef class Source:
    """A consumer of some partitions that gives blocks.

    Args:
        properties: librdkafka's properties as pairs of str.
        block_bytes: a block is sealed when its columns reach this size, bytes.
        open_bytes: all partitions' unsealed columns together; above it the largest is sealed early, so that a
            thousand partitions cost no more memory than one. One record beyond it is no error.
        token_source: gives (token, expiry in ms since the epoch, principal) whenever librdkafka wants one for
            OAUTHBEARER; called by a thread of its own. What it raises is told as an error of the client.

    Raises:
        ClientConfigError: librdkafka refused a property.
        LibraryError: load() has not been called.
    """

    cdef void *rk
    cdef void *queue
    cdef void *main_queue
    cdef lane *lanes
    cdef int32_t lane_count
    cdef int32_t open_lanes
    cdef size_t block_bytes
    cdef size_t open_limit
    cdef size_t open_total
    cdef ready_block ready[READY_MAX]
    cdef int ready_count
    cdef failure failures[FAILURES_MAX]
    cdef int failure_count
    cdef int ended[READY_MAX]
    cdef int ended_count
    cdef message *batch[BATCH]
    cdef ssize_t batch_size
    cdef ssize_t batch_at
    cdef list topics         # (rkt, topic_lanes) pointers as ints
    cdef object token_source  # the client calls it as long as it lives
    cdef int64_t record_total
    cdef int64_t stop_at_records
    cdef int64_t stop_at_bytes
    cdef int64_t waited_ms
    cdef int64_t byte_total
    cdef int64_t dropped_total
    cdef int64_t timestamp_from
    cdef int64_t timestamp_to
    cdef bint has_window

    def __cinit__(self):
        self.rk = NULL
        self.queue = NULL
        self.main_queue = NULL
        self.lanes = NULL
        self.topics = []

    def __init__(self, properties, *, block_bytes: int, open_bytes: int, token_source=None):
        if self.rk != NULL:
            raise RuntimeError("a source is made once")
        require_loaded()
        if not 1024 <= block_bytes <= 1 << 30:
            raise ValueError("block_bytes has to be between 1 KiB and 1 GiB")
        if open_bytes < block_bytes:
            raise ValueError("open_bytes has to hold one block")
        self.block_bytes = block_bytes
        self.open_limit = open_bytes
        self.token_source = token_source
        self.rk = new_handle(TYPE_CONSUMER, properties, EVENT_STATS, token_source)
        self.queue = rd.queue_new(self.rk)
        self.main_queue = rd.queue_get_main(self.rk)

    def __dealloc__(self):
        self.release()

    # noexcept as __dealloc__ calls it, which has nobody to raise to; it frees, and nothing in it can fail
    cdef void release(self) noexcept:
        cdef int i
        cdef topic_lanes *t
        cdef void *rkt
        cdef void *rk
        if self.rk == NULL:
            return
        for i in range(self.lane_count):
            if not self.lanes[i].done:
                rd.consume_stop(self.lanes[i].rkt, self.lanes[i].partition)
            builder_free(&self.lanes[i].build)
        while self.batch_at < self.batch_size:
            rd.message_destroy(self.batch[self.batch_at])
            self.batch_at += 1
        for i in range(self.ready_count):
            free(self.ready[i].data)
        self.ready_count = 0
        if self.queue != NULL:
            rd.queue_destroy(self.queue)
        if self.main_queue != NULL:
            rd.queue_destroy(self.main_queue)
        for rkt_address, table_address in self.topics:
            rkt = <void *><size_t>rkt_address
            t = <topic_lanes *><size_t>table_address
            rd.topic_destroy(rkt)
            free(t.lanes)
            free(t)
        self.topics = []
        free(self.lanes)
        self.lanes = NULL
        self.lane_count = 0
        rk = self.rk
        self.rk = NULL
        with nogil:
            rd.destroy_flags(rk, 0)

    def close(self):
        """Stop fetching and free everything; blocks already handed over stay valid. Again is fine."""
        self.release()

    def start(self, partitions, anchors=None, *, timestamp_from: int = INT64_MIN, timestamp_to: int = INT64_MAX):
        """Begin to fetch; once.

        Args:
            partitions: (topic, partition, start_offset, end_offset_exclusive) each. An empty range
                ends at once. Events name a partition by its place in this list.
            anchors: by place: (offset, timestamp, leader epoch or -1) of a record before start_offset that was
                read some other time. If the log holds another record there now, it was cut and has grown
                again: that is a SourceError (ERR_LOG_REPLACED), and nothing is taken. A record is named by its
                offset and leader epoch (KIP-101). That none is there any more says nothing.
            timestamp_from, timestamp_to: records with other timestamps (ms, both included) are passed over, each looked
                at for itself: they are in no block, and count as seen.
        """
        cdef lane *entry
        cdef topic_lanes *t
        cdef void *conf
        cdef void *rkt
        cdef int32_t i
        if self.rk == NULL or self.lanes != NULL:
            raise RuntimeError("a source is started once, before it is closed")
        self.timestamp_from = timestamp_from
        self.timestamp_to = timestamp_to
        self.has_window = timestamp_from != INT64_MIN or timestamp_to != INT64_MAX
        wanted = list(partitions)
        anchors = anchors or {}
        by_topic = {}
        for index, (topic, partition, start, end) in enumerate(wanted):
            if partition < 0 or start < 0 or end < 0:
                raise ValueError(f"a negative partition or offset: {topic}[{partition}] {start}..{end}")
            if index in anchors and not 0 <= anchors[index][0] < start:
                raise ValueError(f"an anchor behind the start: {topic}[{partition}] {anchors[index]} {start}")
            if partition in by_topic.setdefault(topic, {}):
                raise ValueError(f"{topic}[{partition}] is named twice")
            by_topic[topic][partition] = index
        self.lanes = <lane *>calloc(max(1, len(wanted)), sizeof(lane))
        if self.lanes == NULL:
            raise MemoryError
        self.lane_count = <int32_t>len(wanted)
        for i in range(self.lane_count):
            self.lanes[i].done = 1
            builder_init(&self.lanes[i].build)
        self.open_lanes = 0
        for topic, indexes in by_topic.items():
            t = <topic_lanes *>calloc(1, sizeof(topic_lanes))
            if t == NULL:
                raise MemoryError
            t.count = <int32_t>(max(indexes) + 1)
            t.lanes = <int32_t *>calloc(t.count, sizeof(int32_t))
            if t.lanes == NULL:
                free(t)
                raise MemoryError
            for i in range(t.count):
                t.lanes[i] = indexes.get(i, -1)
            conf = rd.default_topic_conf_dup(self.rk)
            rd.topic_conf_set_opaque(conf, t)
            rkt = rd.topic_new(self.rk, topic.encode(), conf)
            if rkt == NULL:
                free(t.lanes)
                free(t)
                raise ValueError(f"librdkafka refused topic {topic!r}: {rd.err2str(rd.last_error()).decode()}")
            self.topics.append((<size_t>rkt, <size_t>t))
            for partition, index in indexes.items():
                entry = &self.lanes[<int32_t>index]
                entry.rkt = rkt
                entry.partition = partition
        for index, (topic, partition, start, end) in enumerate(wanted):
            entry = &self.lanes[<int32_t>index]
            entry.leader_epoch = -1
            entry.anchor_offset = -1
            if index in anchors:
                entry.anchor_offset, entry.anchor_timestamp, entry.anchor_epoch = anchors[index]
            entry.next_offset = start
            entry.sealed_offset = start
            entry.end_offset = end
            if start >= end:
                continue
            if entry.anchor_offset >= 0:
                start = entry.anchor_offset
            if rd.consume_start_queue(entry.rkt, entry.partition, start, self.queue) != 0:
                raise ValueError(f"can't fetch {topic}[{partition}]: {rd.err2str(rd.last_error()).decode()}")
            entry.done = 0
            self.open_lanes += 1

    def poll(self, timeout_ms: int, *, max_records: int = -1, max_bytes: int = -1):
        """Fetch and encode until a block is full, a partition ends or fails, a bound is reached, or time is up.

        Args:
            timeout_ms: how long to wait at most, ms.
            max_records, max_bytes: take about so many records, or bytes of keys, values and headers: the
                record that reaches a bound is the last one. Negative for no bound.

        Returns:
            Events in order: BlockReady, PartitionEnd, SourceError. A partition's last records come
            as a BlockReady before its PartitionEnd.
        """
        cdef int i
        cdef int64_t until = monotonic_ms() + <int64_t>timeout_ms
        if self.rk == NULL:
            raise RuntimeError("the source is closed")
        self.stop_at_records = self.record_total + max_records if max_records >= 0 else INT64_MAX
        self.stop_at_bytes = self.byte_total + max_bytes if max_bytes >= 0 else INT64_MAX
        with nogil:
            self.run(until)
        events = []
        for i in range(self.ready_count):
            block = RawBlock.take(self.ready[i].data, self.ready[i].size, &self.ready[i].stats)
            self.ready[i].data = NULL
            events.append(BlockReady(
                self.ready[i].lane, block, self.ready[i].next_offset, self.ready[i].leader_epoch))
        self.ready_count = 0
        for i in range(self.failure_count):
            events.append(SourceError(
                self.failures[i].lane, self.failures[i].code,
                (<bytes>self.failures[i].text).decode(errors="replace"), self.failures[i].offset,
            ))
        self.failure_count = 0
        for i in range(self.ended_count):
            self.stop_lane(self.ended[i])
            events.append(PartitionEnd(self.ended[i], self.lanes[self.ended[i]].next_offset))
        self.ended_count = 0
        return events

    cdef void stop_lane(self, int32_t index):
        cdef lane *entry = &self.lanes[index]
        rd.consume_stop(entry.rkt, entry.partition)
        self.drop_open(entry)

    cdef int run(self, int64_t until) noexcept nogil:
        cdef int64_t left, begun
        cdef bint looked_at
        cdef message *m
        while self.open_lanes > 0 or self.batch_at < self.batch_size:
            while self.batch_at < self.batch_size:
                if (self.ready_count >= READY_MAX - 1 or self.failure_count >= FAILURES_MAX - 1
                        or self.ended_count >= READY_MAX - 1):
                    return 0
                if self.record_total >= self.stop_at_records or self.byte_total >= self.stop_at_bytes:
                    return 0
                m = self.batch[self.batch_at]
                self.batch_at += 1
                self.take(m)
                rd.message_destroy(m)
            looked_at = self.batch_size > 0
            self.batch_at = 0
            self.batch_size = 0
            if self.ready_count or self.failure_count or self.ended_count:
                return 0
            if self.record_total >= self.stop_at_records or self.byte_total >= self.stop_at_bytes:
                return 0
            if looked_at and self.has_window and monotonic_ms() >= until:
                return 0                  # records that are passed over fill no block that would end this
            self.batch_size = rd.consume_batch_queue(self.queue, 0, self.batch, BATCH)
            if self.batch_size > 0:
                continue
            self.batch_size = 0
            begun = monotonic_ms()
            left = until - begun
            if left <= 0:
                return 0
            # returns with the first message, where the batch call would wait for a full batch
            m = rd.consume_queue(self.queue, <int>left)
            self.waited_ms += monotonic_ms() - begun
            if m == NULL:
                return 0
            self.batch[0] = m
            self.batch_size = 1
        return 0

    cdef void fail(self, int32_t index, int code, const char *text, int64_t offset) noexcept nogil:
        cdef failure *f = &self.failures[self.failure_count]
        cdef size_t size = strlen(text) if text != NULL else 0
        cdef size_t i
        if size > TEXT_MAX - 1:
            size = TEXT_MAX - 1
        for i in range(size):
            f.text[i] = text[i]
        f.text[size] = 0
        f.lane = index
        f.code = code
        f.offset = offset
        self.failure_count += 1

    cdef void give_up(self, int32_t index, int code, const char *text, int64_t offset) noexcept nogil:
        """Our own reason to stop a partition: what is not sealed is dropped, and its position says so."""
        cdef lane *entry = &self.lanes[index]
        self.fail(index, code, text, offset)
        self.drop_open(entry)
        entry.next_offset = entry.sealed_offset
        entry.done = 1
        self.open_lanes -= 1

    cdef void finish(self, int32_t index) noexcept nogil:
        cdef lane *entry = &self.lanes[index]
        entry.next_offset = entry.end_offset
        if entry.build.stats.record_count:
            if self.seal(index) != 0:
                return
        entry.done = 1
        self.open_lanes -= 1
        self.ended[self.ended_count] = index
        self.ended_count += 1

    cdef int seal(self, int32_t index) noexcept nogil:
        cdef lane *entry = &self.lanes[index]
        cdef ready_block *r = &self.ready[self.ready_count]
        if builder_seal(&entry.build, &r.data, &r.size) != BUILD_OK:
            self.give_up(index, ERR_NO_MEMORY, b"no memory for a block", entry.next_offset)
            return -1
        r.lane = index
        r.next_offset = entry.next_offset
        r.leader_epoch = entry.leader_epoch
        entry.sealed_offset = entry.next_offset
        r.stats = entry.build.stats
        self.ready_count += 1
        if builder_capacity(&entry.build) > 4 * self.block_bytes or self.open_total > self.open_limit // 2:
            # one huge record must not pin its size for the whole run, nor idle partitions their buffers
            self.drop_open(entry)
        else:
            self.open_total -= entry.counted
            entry.counted = 0
            builder_clear(&entry.build)
        return 0

    cdef void drop_open(self, lane *entry) noexcept nogil:
        self.open_total -= entry.counted
        entry.counted = 0
        builder_free(&entry.build)
        builder_init(&entry.build)

    cdef void seal_largest(self) noexcept nogil:
        """Too much is open in all: the partition that holds most gives its block now."""
        cdef int32_t i
        cdef int32_t largest = 0
        for i in range(1, self.lane_count):
            if self.lanes[i].counted > self.lanes[largest].counted:
                largest = i
        self.seal(largest)

    cdef void take(self, message *m) noexcept nogil:
        cdef topic_lanes *t
        cdef int32_t index = -1
        cdef lane *entry
        cdef int64_t timestamp
        cdef int tstype = 0
        cdef int result
        cdef size_t size
        cdef void *headers = NULL
        if m.rkt != NULL:
            t = <topic_lanes *>rd.topic_opaque(m.rkt)
            if t != NULL and 0 <= m.partition < t.count:
                index = t.lanes[m.partition]
        if index < 0:
            if m.err:
                self.fail(-1, m.err, <const char *>m.payload, m.offset)
            return
        entry = &self.lanes[index]
        if entry.done:
            return                        # fetched ahead, past the end that is wanted
        if m.err:
            if m.err == ERR_PARTITION_EOF:
                if m.offset >= entry.end_offset:
                    self.finish(index)
                    return
                if m.offset > entry.next_offset:
                    entry.next_offset = m.offset
                entry.at_log_end_ms = monotonic_ms()
                return
            self.fail(index, m.err, <const char *>m.payload, m.offset)
            # What may come behind the error must not be taken: it would stand behind a hole that nobody hears of. What
            # was gathered before it is for flush().
            entry.done = 1
            self.open_lanes -= 1
            return
        if m.offset >= entry.end_offset:
            self.finish(index)
            return
        if m.offset == entry.anchor_offset:
            entry.anchor_offset = -1
            if not self.is_anchor(m, entry):
                self.give_up(index, ERR_LOG_REPLACED, b"another record than the one that was read", m.offset)
            return
        if m.offset < entry.next_offset:
            if entry.build.stats.record_count and m.offset <= entry.build.stats.last_offset:
                self.give_up(index, ERR_OFFSETS_FELL, b"an offset that was fetched before came again", m.offset)
            else:
                self.dropped_total += 1   # a batch that begins before the offset asked for
            return
        timestamp = rd.message_timestamp(m, &tstype)
        if self.has_window and not self.timestamp_from <= timestamp <= self.timestamp_to:
            # it was read, which is what a limit and whoever waits go by
            entry.next_offset = m.offset + 1
            entry.at_log_end_ms = 0
            self.record_total += 1
            self.byte_total += <int64_t>(m.len + m.key_len)
            if entry.next_offset >= entry.end_offset:
                self.finish(index)
            return
        if rd.message_headers(m, &headers) != 0:
            headers = NULL
        if headers != NULL and names_have_nul(headers):
            # what came before it is good, and is kept
            if entry.build.stats.record_count == 0 or self.seal(index) == 0:
                self.give_up(index, ERR_HEADER_NUL, b"a header name with a NUL byte", m.offset)
            return
        result = builder_add(
            &entry.build, m.offset, timestamp, <uint8_t>tstype,
            m.key, <int64_t>m.key_len if m.key != NULL else -1,
            m.payload, <int64_t>m.len if m.payload != NULL else -1,
        )
        if result == BUILD_OK and headers != NULL:
            result = self.take_headers(index, headers)
        if result != BUILD_OK:
            if result == BUILD_NO_MEMORY:
                self.give_up(index, ERR_NO_MEMORY, b"no memory for a record", m.offset)
            else:
                self.give_up(index, ERR_RECORD_TOO_LARGE, b"a record too large for a block", m.offset)
            return
        entry.next_offset = m.offset + 1
        entry.leader_epoch = rd.message_leader_epoch(m)
        entry.at_log_end_ms = 0
        self.record_total += 1
        self.byte_total += entry.build.record_bytes
        if entry.next_offset >= entry.end_offset:
            self.finish(index)
            return
        size = builder_size(&entry.build)
        self.open_total += size - entry.counted
        entry.counted = size
        if size >= self.block_bytes:
            self.seal(index)
        elif self.open_total > self.open_limit:
            self.seal_largest()

    cdef bint is_anchor(self, message *m, lane *entry) noexcept nogil:
        cdef int tstype = 0
        cdef int32_t epoch = rd.message_leader_epoch(m)
        if epoch >= 0 and entry.anchor_epoch >= 0 and epoch != entry.anchor_epoch:
            return False
        return rd.message_timestamp(m, &tstype) == entry.anchor_timestamp

    cdef int take_headers(self, int32_t index, void *headers) noexcept nogil:
        cdef const char *name
        cdef const void *value
        cdef size_t size, count, i
        cdef builder *b = &self.lanes[index].build
        cdef int result
        count = rd.header_cnt(headers)
        if count == 0:
            return BUILD_OK
        if count > 0x3FFFFFFF:
            return ERR_RECORD_TOO_LARGE
        result = builder_begin_headers(b, <uint32_t>count)
        if result != BUILD_OK:
            return result
        for i in range(count):
            if rd.header_get_all(headers, i, &name, &value, &size) != 0:
                return ERR_RECORD_TOO_LARGE
            result = builder_add_header(
                b, name, <int64_t>strlen(name), value, <int64_t>size if value != NULL else -1)
            if result != BUILD_OK:
                return result
        return BUILD_OK

    def flush(self, index: int):
        """Seal what a partition has gathered so far.

        Returns:
            A BlockReady, or None when there is nothing.
        """
        cdef lane *entry = self.lane_at(index)
        cdef RawBlock block
        if entry.build.stats.record_count == 0:
            return None
        if self.ready_count >= READY_MAX:
            raise RuntimeError("events wait: call poll() before flush()")
        if self.seal(index) != 0:
            self.failure_count -= 1
            raise MemoryError("no memory for a block")
        self.ready_count -= 1
        block = RawBlock.take(
            self.ready[self.ready_count].data, self.ready[self.ready_count].size, &self.ready[self.ready_count].stats)
        return BlockReady(
            index, block, self.ready[self.ready_count].next_offset, self.ready[self.ready_count].leader_epoch)

    def stop(self, index: int):
        """Stop fetching one partition; what it gathered is dropped unless flushed before."""
        cdef lane *entry = self.lane_at(index)
        if not entry.done:
            entry.done = 1
            self.open_lanes -= 1
        self.stop_lane(index)

    def position(self, index: int) -> int:
        """The first offset of a partition that has not been seen."""
        return self.lane_at(index).next_offset

    def short_of_end(self, for_ms: int) -> list[int]:
        """Partitions whose log has ended before the wanted end, and has not grown for so long.

        A log only ends there if it was cut: the end that is wanted was in it once.
        """
        cdef int32_t i
        cdef int64_t until = monotonic_ms() - <int64_t>for_ms
        return [i for i in range(self.lane_count)
                if not self.lanes[i].done and 0 < self.lanes[i].at_log_end_ms <= until]

    cdef lane *lane_at(self, index) except NULL:
        if self.lanes == NULL or not 0 <= index < self.lane_count:
            raise IndexError("no such partition in this source")
        return &self.lanes[<int32_t>index]

    @property
    def open_count(self) -> int:
        """How many partitions have not ended."""
        return self.open_lanes

    @property
    def waited_s(self) -> float:
        """How long poll() has waited for records, seconds."""
        return self.waited_ms / 1000

    @property
    def totals(self):
        """(records, bytes of keys + values + headers) encoded so far."""
        return self.record_total, self.byte_total

    def client_events(self):
        """librdkafka's log lines, client-wide errors and statistics since the last call.

        Returns:
            (level, facility, text, code, fatal) each; code is 0 for a log line. Statistics are JSON with the
            facility STATS; they come where ``statistics.interval.ms`` is set.
        """
        if self.rk == NULL:
            return []
        return take_events(self.main_queue)

    def discard(self, timeout_ms: int) -> int:
        """Fetch and drop records for at most ``timeout_ms``: what fetching alone costs, for benchmarks.

        Returns:
            How many partitions have not reached their end.

        Raises:
            RuntimeError: a partition can't be read.
        """
        cdef int failed = 0
        cdef int64_t until = monotonic_ms() + <int64_t>timeout_ms
        cdef ssize_t count, i
        cdef topic_lanes *t
        cdef lane *entry
        cdef message *m
        if self.rk == NULL:
            raise RuntimeError("the source is closed")
        with nogil:
            while self.open_lanes > 0 and failed == 0 and monotonic_ms() < until:
                count = rd.consume_batch_queue(self.queue, 10, self.batch, BATCH)
                for i in range(count):
                    m = self.batch[i]
                    t = <topic_lanes *>rd.topic_opaque(m.rkt) if m.rkt != NULL else NULL
                    if t != NULL and 0 <= m.partition < t.count and t.lanes[m.partition] >= 0:
                        entry = &self.lanes[t.lanes[m.partition]]
                        if not m.err:
                            self.record_total += 1
                            self.byte_total += <int64_t>(m.len + m.key_len)
                        elif m.err != ERR_PARTITION_EOF:
                            failed = m.err
                        if not entry.done and m.offset + (0 if m.err else 1) >= entry.end_offset:
                            entry.done = 1
                            self.open_lanes -= 1
                    rd.message_destroy(m)
        if failed:
            raise RuntimeError(f"fetching failed: {rd.err2str(failed).decode()}")
        return self.open_lanes
