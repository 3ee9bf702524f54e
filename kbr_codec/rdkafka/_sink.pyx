# cython: language_level=3
"""Sink: the records of blocks straight into a producer, without the GIL and without copying values.

Owns one producer handle. A block given to produce() stays referenced until the broker has
acknowledged its last record: librdkafka reads values from the block's own memory.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t
from libc.stdio cimport snprintf
from libc.stdlib cimport calloc, free
from libc.string cimport strlen
from posix.unistd cimport usleep

from .._route cimport ROUTE_MURMUR2, ROUTE_ORIGINAL, ROUTE_ROUND_ROBIN, crc_prepare, route_of
from .._view cimport view, view_error_kind, view_header, view_next, view_open, view_record, view_record_bytes
from ._api cimport (
    ERR_GAPLESS_GUARANTEE, ERR_INVALID_DIFFERENT_RECORD, ERR_QUEUE_FULL, EVENT_DR, EVENT_ERROR, EVENT_LOG,
    PURGE_INFLIGHT, PURGE_QUEUE, TYPE_PRODUCER, VTYPE_HEADERS, VTYPE_KEY, VTYPE_OPAQUE, VTYPE_PARTITION, VTYPE_RKT,
    VTYPE_TIMESTAMP, VTYPE_VALUE, message, metadata_answer, monotonic_ms, new_handle, rd, require_loaded, vu, vu_i32,
    vu_i64, vu_mem, vu_ptr,
)

from ..errors import Corrupt, Truncated
from ._events import ClientEvent, Delivered, Sent, SinkFailure

__all__ = ["Sink"]

crc_prepare()

cdef enum:
    REPORTS = 1024
    TEXT_MAX = 384
    # how long one call waits for room in librdkafka's queue, ms
    FULL_WAIT_MS = 100
    # how long is waited for the broker's own answer, once librdkafka has said that there was one, ms
    ANSWER_WAIT_MS = 5000
    ERR_TIMESTAMP_ZERO = -100005
    ERR_QUEUE_TOO_SMALL = -100007


cdef extern from *:
    """
    #include <errno.h>
    #include <sys/socket.h>
    #include <unistd.h>
    #ifndef SOCK_CLOEXEC
    #include <fcntl.h>
    #endif

    /* As librdkafka makes its sockets (rd_kafka_socket_cb_linux and _generic in rdkafka_broker.c), but one that is
       closed, or loses its process, drops what was not sent, with a reset. Otherwise the kernel would go on sending for
       minutes what a killed restore had given to it, behind the back of the next one. Nothing that counts is lost:
       that has been acknowledged before a socket is closed. */
    static int kbr_unlingering_socket(int domain, int kind, int protocol, void *opaque) {
        struct linger at_once = {1, 0};
        int made, failed;
        (void)opaque;
    #ifdef SOCK_CLOEXEC
        made = socket(domain, kind | SOCK_CLOEXEC, protocol);
    #else
        made = socket(domain, kind, protocol);
        if (made != -1)
            fcntl(made, F_SETFD, FD_CLOEXEC);
    #endif
        if (made != -1 && setsockopt(made, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once))) {
            failed = errno;
            close(made);
            errno = failed;
            return -1;
        }
        return made;
    }
    """
    int unlingering_socket "kbr_unlingering_socket"(int domain, int kind, int protocol, void *opaque) noexcept nogil


# what send_record() says
cdef enum sending:
    QUEUED
    FULL
    FAILED


# how much a failure says, the most last
cdef enum blame:
    NO_FAILURE
    VAGUE                # librdkafka's own conclusion
    PRECISE              # a broker's answer, or what was found of a record before it was sent


cdef struct filter:
    int64_t offset_from
    int64_t offset_to_exclusive
    int64_t timestamp_from
    int64_t timestamp_to
    int partitioner          # ROUTE_ORIGINAL: every record; else those that it gives to the ticket's partition
    uint32_t partition_count
    int64_t position         # of the block's next record


cdef struct ticket:
    int64_t id
    int64_t queued           # records given to librdkafka
    int64_t reported         # of them, acknowledged or failed
    int64_t record_bytes
    int64_t first_offset     # the first record's target offset, told or counted back from; -1 unknown
    int64_t last_offset      # the last one that was told, and its place among the block's records
    int64_t last_place
    int complete             # no more records of the block will be queued
    ticket *next_done
    Py_buffer buffer
    # where the block's rest goes
    view rest
    view_record record       # taken from the rest, but there was no room for it yet
    bint has_record
    filter wanted
    void *rkt
    int32_t partition
    const char *header       # of one of Sink.header_names
    ssize_t header_size


# Its end uses what it holds of Python (lists of handles, tickets, the callback that librdkafka's thread may be in): the
# collector must not take that away first, where it finds it in a circle.
@cython.no_gc_clear
cdef class Sink:
    """A producer that takes blocks.

    Args:
        properties: librdkafka's properties as pairs of str.
        zero_timestamp_as: what to send for timestamp 0, which librdkafka takes for "now"
            (rdkafka.h, RD_KAFKA_V_TIMESTAMP); 0 refuses such a record.
        token_source: as Source's.

    Raises:
        ClientConfigError: librdkafka refused a property.
        LibraryError: load() has not been called.
    """

    cdef void *rk
    cdef void *queue
    cdef list topics         # rkt pointers as ints
    cdef object token_source  # the client calls it as long as it lives
    cdef dict open_tickets   # id -> address of its ticket
    cdef ticket *done
    cdef int64_t next_id
    cdef int64_t zero_timestamp_as
    cdef blame failed
    cdef int failed_code
    cdef int64_t failed_ticket
    cdef int64_t failed_offset
    cdef char failed_text[TEXT_MAX]
    cdef int64_t report_total
    cdef list pending_events
    cdef set header_names    # keeps alive what tickets point to
    cdef int64_t waited_ms
    cdef readonly int64_t zero_timestamps

    def __cinit__(self):
        self.rk = NULL
        self.queue = NULL
        self.done = NULL
        self.topics = []
        self.open_tickets = {}
        self.pending_events = []
        self.header_names = set()

    def __init__(self, properties, *, zero_timestamp_as: int = 0, token_source=None):
        if self.rk != NULL:
            raise RuntimeError("a sink is made once")
        require_loaded()
        self.zero_timestamp_as = zero_timestamp_as
        self.token_source = token_source
        self.rk = new_handle(TYPE_PRODUCER, properties, EVENT_DR, token_source, unlingering_socket)
        self.queue = rd.queue_get_main(self.rk)

    def __dealloc__(self):
        self.release()

    # noexcept as __dealloc__ calls it, which has nobody to raise to; it frees, and nothing in it can fail
    cdef void release(self) noexcept:
        cdef void *rk = self.rk
        cdef ticket *t
        if rk == NULL:
            return
        # What is still queued must not be read after its block is freed: purge, and take all reports.
        with nogil:
            rd.purge(rk, PURGE_QUEUE | PURGE_INFLIGHT)
            while rd.outq_len(rk) > 0:
                if self.serve(100) == 0 and rd.outq_len(rk) == 0:
                    break
        for rkt in self.topics:
            rd.topic_destroy(<void *><size_t>rkt)
        self.topics = []
        rd.queue_destroy(self.queue)
        self.rk = NULL
        with nogil:
            rd.destroy_flags(rk, 0)
        for address in self.open_tickets.values():
            t = <ticket *><size_t>address
            PyBuffer_Release(&t.buffer)
            free(t)
        self.open_tickets = {}
        self.done = NULL

    def close(self):
        """Drop what is not yet sent and free everything; again is fine."""
        self.release()

    def connect(self, timeout_ms: int) -> bool:
        """Wait until a broker has answered, before the first record; without it that record waits for half a second.

        librdkafka asks for an idempotent producer's id with every answer to a metadata request, if a broker is
        connected then, and else each 500 ms. The first answer comes through the bootstrap connection, which it
        closes; the next one asks.  (rdkafka_idempotence.c, rd_kafka_idemp_pid_fsm; rdkafka_metadata.c)

        Args:
            timeout_ms: how long at most.

        Returns:
            Whether a broker answered. What stands against it, records that are sent will tell.
        """
        cdef const metadata_answer *found
        cdef int64_t until = monotonic_ms() + <int64_t>timeout_ms
        cdef int64_t left
        cdef int32_t broker = -1
        if self.rk == NULL:
            raise RuntimeError("the sink is closed")
        with nogil:
            while broker < 0:
                left = until - monotonic_ms()
                if left <= 0 or rd.metadata(self.rk, 0, NULL, &found, <int>left) != 0:
                    break
                broker = found.orig_broker_id      # -1 for the bootstrap connection
                rd.metadata_destroy(found)
                if broker < 0:
                    usleep(5000)
        return broker >= 0

    def open_topic(self, topic: str) -> int:
        """A handle for produce()."""
        cdef void *rkt
        if self.rk == NULL:
            raise RuntimeError("the sink is closed")
        rkt = rd.topic_new(self.rk, topic.encode(), NULL)
        if rkt == NULL:
            raise ValueError(f"librdkafka refused topic {topic!r}: {rd.err2str(rd.last_error()).decode()}")
        self.topics.append(<size_t>rkt)
        return len(self.topics) - 1

    def produce(
        self, topic: int, partition: int, block, *, offset_from: int, offset_to_exclusive: int,
        timestamp_from: int, timestamp_to: int, original_offset_header: bytes = b"", max_records: int = -1,
        max_bytes: int = -1, partitioner: int = ROUTE_ORIGINAL, partition_count: int = 0, position: int = 0,
    ):
        """Queue the block's records that lie in the window; waits a moment while librdkafka's queue is full.

        Args:
            topic: from open_topic().
            partition: the target partition.
            block: a decompressed block (buffer protocol); held until its last record is acknowledged.
            offset_from, offset_to_exclusive: source offsets, the end not included.
            timestamp_from, timestamp_to: ms, both included.
            original_offset_header: name of a header to add that holds the record's source offset in
                decimal; empty for none.
            max_records, max_bytes: queue about so much and return, at least one record: the record that
                reaches a bound is the last one. Negative for no bound.
            partitioner: of kbr_codec.Partitioner; with another than ORIGINAL only the records that it gives to
                ``partition`` are queued.
            partition_count: of the target topic, for the partitioner.
            position: of the block's first record among all of its source partition, for the partitioner.

        Returns:
            Sent. Delivered of its ticket comes from poll() once it is complete, unless none of the block's
            records lay in the window. An incomplete one goes on with resume() or ends with abandon(); where the
            queue stayed full, it may hold less than was asked for, or no record at all.

        Raises:
            Truncated: the block ends too early.
            Corrupt: it is no block. Nothing of it has been queued in both cases.
        """
        cdef ticket *t
        cdef int bad
        if self.rk == NULL:
            raise RuntimeError("the sink is closed")
        if partitioner != ROUTE_ORIGINAL and not (
                ROUTE_MURMUR2 <= partitioner <= ROUTE_ROUND_ROBIN and 0 <= partition < partition_count
                and position >= 0):
            raise ValueError("a partitioner goes with the number of partitions, and a position from 0 on")
        rkt = self.topics[topic]
        t = <ticket *>calloc(1, sizeof(ticket))
        if t == NULL:
            raise MemoryError
        try:
            t.rkt = <void *><size_t>rkt
            t.partition = partition
            t.wanted.offset_from = offset_from
            t.wanted.offset_to_exclusive = offset_to_exclusive
            t.wanted.timestamp_from = timestamp_from
            t.wanted.timestamp_to = timestamp_to
            t.wanted.partitioner = partitioner
            t.wanted.partition_count = partition_count
            t.wanted.position = position
            if original_offset_header:
                self.header_names.add(original_offset_header)
                # the set keeps the first of equal names: that one is pointed to
                original_offset_header = next(one for one in self.header_names if one == original_offset_header)
                t.header = original_offset_header
                t.header_size = len(original_offset_header)
            PyObject_GetBuffer(block, &t.buffer, PyBUF_SIMPLE)
        except BaseException:
            free(t)
            raise
        t.id = self.next_id
        self.next_id += 1
        t.first_offset = -1
        t.last_offset = -1
        with nogil:
            bad = view_open(&t.rest, <const uint8_t *>t.buffer.buf, <size_t>t.buffer.len)
        if bad:
            error = (Truncated if view_error_kind(&t.rest) else Corrupt)(
                (<bytes>t.rest.at.reason).decode(), t.rest.at.failed_at)
            PyBuffer_Release(&t.buffer)
            free(t)
            raise error
        self.open_tickets[t.id] = <size_t>t
        return self.go_on(t, max_records, max_bytes)

    def resume(self, number: int, *, max_records: int = -1, max_bytes: int = -1):
        """Queue more of an incomplete block; as produce().

        Raises:
            KeyError: no such ticket is open.
            ValueError: it is complete.
        """
        return self.go_on(self.incomplete(number), max_records, max_bytes)

    def abandon(self, number: int):
        """Queue no more of an incomplete block.

        Returns:
            Whether anything of it was queued: only then Delivered tells of it.

        Raises:
            KeyError: no such ticket is open.
            ValueError: it is complete.
        """
        cdef ticket *t = self.incomplete(number)
        cdef bint queued = t.queued > 0
        self.end(t)
        return queued

    cdef ticket *incomplete(self, number) except NULL:
        cdef ticket *t
        if self.rk == NULL:
            raise RuntimeError("the sink is closed")
        t = <ticket *><size_t>self.open_tickets[number]
        if t.complete:
            raise ValueError("all of that block has been queued")
        return t

    cdef object go_on(self, ticket *t, int64_t max_records, int64_t max_bytes):
        cdef int64_t records = t.queued
        cdef int64_t size = t.record_bytes
        cdef bint more
        with nogil:
            more = self.send(t, max_records, max_bytes)
        sent = Sent(t.id, t.queued - records, t.record_bytes - size, not more)
        if not more:
            self.end(t)
        return sent

    cdef void end(self, ticket *t):
        t.complete = 1
        if t.queued == t.reported:
            # nothing matched, or all reports came before
            if t.queued:
                self.finished(t)
            else:
                self.drop(t)

    cdef void drop(self, ticket *t):
        del self.open_tickets[t.id]
        PyBuffer_Release(&t.buffer)
        free(t)

    cdef void finished(self, ticket *t) noexcept nogil:
        t.next_done = self.done
        self.done = t

    cdef bint send(self, ticket *t, int64_t max_records, int64_t max_bytes) noexcept nogil:
        """Queue records up to a bound; whether the block has more."""
        cdef int64_t first = t.queued
        cdef int64_t first_bytes = t.record_bytes
        cdef int64_t waited = self.waited_ms
        cdef sending outcome
        while not self.failed:
            if t.queued > first and (
                    0 <= max_records <= t.queued - first or 0 <= max_bytes <= t.record_bytes - first_bytes):
                return True
            if not t.has_record and not self.take_record(t):
                return False
            outcome = self.send_record(t, &t.record)
            if outcome == QUEUED:
                t.has_record = 0
            elif outcome == FULL:
                self.wait_for_room(t)
                if self.waited_ms - waited >= FULL_WAIT_MS:
                    # the caller has other things to look at: stops, and how long nothing was acknowledged
                    return True
        return False

    cdef bint take_record(self, ticket *t) noexcept nogil:
        """The next record of the window out of the block's rest; whether there was one."""
        cdef view_record *record = &t.record
        while view_next(&t.rest, record):
            if t.wanted.partitioner != ROUTE_ORIGINAL:
                t.wanted.position += 1
                if route_of(
                        t.wanted.partitioner, t.wanted.partition_count, record.key, record.key_size,
                        t.wanted.position - 1) != t.partition:
                    continue
            if (t.wanted.offset_from <= record.offset < t.wanted.offset_to_exclusive
                    and t.wanted.timestamp_from <= record.timestamp <= t.wanted.timestamp_to):
                t.has_record = 1
                return True
        return False

    cdef void wait_for_room(self, ticket *t) noexcept nogil:
        """Take one event, for the queue is full. One that is empty has no room for this record, and never will."""
        cdef int64_t begun
        if rd.outq_len(self.rk) == 0:
            self.fail(PRECISE, t.id, ERR_QUEUE_TOO_SMALL, b"a record larger than the client's queue", t.record.offset)
            return
        begun = monotonic_ms()
        self.serve(FULL_WAIT_MS)
        self.waited_ms += monotonic_ms() - begun

    cdef sending send_record(self, ticket *t, view_record *record) noexcept nogil:
        cdef vu vus[7]
        cdef size_t count = 6
        cdef void *headers = NULL
        cdef void *error
        cdef int code
        cdef int64_t timestamp = record.timestamp
        if timestamp == 0:
            timestamp = self.zero_timestamp_as
            if timestamp == 0:
                self.fail(PRECISE, t.id, ERR_TIMESTAMP_ZERO, b"timestamp 0 can't be sent", record.offset)
                return FAILED
        vu_ptr(&vus[0], VTYPE_RKT, t.rkt)
        vu_i32(&vus[1], VTYPE_PARTITION, t.partition)
        vu_mem(&vus[2], VTYPE_KEY, record.key, <size_t>record.key_size if record.key_size > 0 else 0)
        vu_mem(&vus[3], VTYPE_VALUE, record.value, <size_t>record.value_size if record.value_size > 0 else 0)
        vu_i64(&vus[4], VTYPE_TIMESTAMP, timestamp)
        vu_ptr(&vus[5], VTYPE_OPAQUE, t)
        if record.header_count or t.header != NULL:
            headers = self.make_headers(record, t.header, t.header_size)
            vu_ptr(&vus[6], VTYPE_HEADERS, headers)
            count = 7
        error = rd.produceva(self.rk, vus, count)
        if error == NULL:
            t.queued += 1
            t.record_bytes += view_record_bytes(record)
            if record.timestamp == 0:
                self.zero_timestamps += 1
            return QUEUED
        if headers != NULL:
            rd.headers_destroy(headers)
        code = rd.error_code(error)
        if code != ERR_QUEUE_FULL:
            self.fail(
                VAGUE if code < 0 else PRECISE, t.id, code, rd.error_string(error), record.offset)
        rd.error_destroy(error)
        return FULL if code == ERR_QUEUE_FULL else FAILED

    cdef void *make_headers(self, view_record *record, const char *header, ssize_t header_size) noexcept nogil:
        cdef void *headers = rd.headers_new(record.header_count + 1)
        cdef const uint8_t *name = NULL
        cdef const uint8_t *value = NULL
        cdef int64_t name_size = 0
        cdef int64_t value_size = 0
        cdef uint32_t _i
        cdef char number[24]
        cdef int size
        cdef view_record walked = record[0]      # it may be asked for again, and is walked as it is read
        for _i in range(record.header_count):
            view_header(&walked, &name, &name_size, &value, &value_size)
            rd.header_add(headers, <const char *>name, name_size, value, value_size if value_size > 0 else 0)
        if header != NULL:
            size = snprintf(number, sizeof(number), b"%lld", <long long>record.offset)
            rd.header_add(headers, header, header_size, number, size)
        return headers

    cdef void fail(self, blame whose, int64_t number, int code, const char *text, int64_t offset) noexcept nogil:
        """Keep the first failure of those that say most; nothing is queued after it."""
        cdef size_t size, i
        if whose <= self.failed:
            return
        self.failed = whose
        self.failed_ticket = number
        self.failed_code = code
        self.failed_offset = offset
        size = strlen(text) if text != NULL else 0
        if size > TEXT_MAX - 1:
            size = TEXT_MAX - 1
        for i in range(size):
            self.failed_text[i] = text[i]
        self.failed_text[size] = 0

    cdef int serve(self, int timeout_ms) noexcept nogil:
        """Take one event; 1 if there was one. Delivery reports are counted, the rest is kept for Python."""
        cdef const message *reports[REPORTS]
        cdef size_t count, i
        cdef ticket *t
        cdef int kind
        cdef void *event = rd.queue_poll(self.queue, timeout_ms)
        if event == NULL:
            return 0
        kind = rd.event_type(event)
        if kind == EVENT_DR:
            while True:
                count = rd.event_message_array(event, reports, REPORTS)
                if count == 0:
                    break
                for i in range(count):
                    t = <ticket *>reports[i]._private
                    t.reported += 1
                    if reports[i].err:
                        # not by the broker's own words: rd_kafka_message_produce_errstr() points to freed memory (2.16)
                        self.fail(
                            PRECISE if reports[i].err > 0 else VAGUE, t.id, reports[i].err,
                            rd.err2str(reports[i].err), -1)
                    else:
                        self.report_total += 1
                        if reports[i].offset >= 0:
                            # reports of one partition come in the order of its records
                            if t.first_offset < 0:
                                t.first_offset = reports[i].offset - (t.reported - 1)
                            t.last_offset = reports[i].offset
                            t.last_place = t.reported
                    if t.complete and t.reported == t.queued:
                        self.finished(t)
            rd.event_destroy(event)
        elif kind == EVENT_LOG or kind == EVENT_ERROR:
            with gil:
                self.keep_event(event, kind)
        else:
            rd.event_destroy(event)
        return 1

    cdef void keep_event(self, void *event, int kind):
        cdef const char *facility
        cdef const char *text
        cdef char why[TEXT_MAX]
        cdef int level
        cdef int code
        if kind == EVENT_LOG:
            if len(self.pending_events) < 1000 and rd.event_log(event, &facility, &text, &level) == 0:
                self.pending_events.append(
                    ClientEvent(level, facility.decode(errors="replace"), text.decode(errors="replace"), 0, False))
        else:
            code = rd.event_error(event)
            words = rd.event_error_string(event)
            fatal = bool(rd.event_error_is_fatal(event))
            if len(self.pending_events) < 1000:
                self.pending_events.append(ClientEvent(3, "ERROR", words.decode(errors="replace"), code, fatal))
            if fatal:
                # the event's own code says no more than that
                code = rd.fatal_error(self.rk, why, sizeof(why))
                self.fail(PRECISE if code > 0 else VAGUE, -1, code, why, -1)
        rd.event_destroy(event)

    def poll(self, timeout_ms: int):
        """Wait for acknowledgements.

        Args:
            timeout_ms: how long to wait for the first one at most, ms.

        Returns:
            Delivered of each ticket whose records are all acknowledged, oldest first.
        """
        cdef ticket *t
        cdef ticket *following
        if self.rk == NULL:
            raise RuntimeError("the sink is closed")
        cdef int wait = timeout_ms if self.done == NULL else 0
        cdef int budget = 10000
        with nogil:
            while budget > 0 and self.serve(wait):
                wait = 0
                budget -= 1
        delivered = []
        t = self.done
        self.done = NULL
        while t != NULL:
            following = t.next_done
            if not self.failed:
                last = t.last_offset + t.queued - t.last_place if t.last_offset >= 0 else -1
                delivered.append(Delivered(t.id, t.queued, t.record_bytes, t.first_offset, last))
            self.drop(t)
            t = following
        delivered.sort()
        return delivered

    def failure(self):
        """The first failure as SinkFailure, or None.

        Of a record that a broker refuses librdkafka first says what follows (a fatal error: the guarantee of no gaps
        can't be kept; or that another record of its batch was refused), and the broker's answer is in that record's
        report, which comes right behind: that one is waited for.
        """
        cdef int64_t until
        if not self.failed:
            return None
        if self.failed == VAGUE and self.rk != NULL:
            until = monotonic_ms() + ANSWER_WAIT_MS
            with nogil:
                while (self.failed == VAGUE
                        and self.failed_code in (ERR_GAPLESS_GUARANTEE, ERR_INVALID_DIFFERENT_RECORD)
                        and rd.outq_len(self.rk) > 0 and monotonic_ms() < until):
                    self.serve(100)
        text = (<bytes>self.failed_text).decode(errors="replace")
        return SinkFailure(self.failed_ticket, self.failed_code, text, self.failed_offset)

    @property
    def open_count(self) -> int:
        """Blocks whose records are not all acknowledged."""
        return len(self.open_tickets)

    @property
    def acknowledged_total(self) -> int:
        """Records acknowledged so far."""
        return self.report_total

    @property
    def waited_s(self) -> float:
        """How long produce() and resume() have waited for room in librdkafka's queue, seconds."""
        return self.waited_ms / 1000

    def client_events(self):
        """librdkafka's log lines and client-wide errors since the last call, as ClientEvent."""
        events = self.pending_events
        self.pending_events = []
        return events
