# cython: language_level=3
"""Where a block's records go when a topic is restored to another number of partitions; see _route.pxd.

tests/support/plain_routes.py says the same in plain Python.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t

from ._cursor cimport writer, writer_bytes, writer_free, writer_reserve
from ._route cimport ROUTE_MURMUR2, ROUTE_ROUND_ROBIN, crc_prepare, route_of
from ._view cimport view, view_error_kind, view_next, view_open, view_record

from .errors import Corrupt, Truncated

__all__ = ["count_routes", "partition_of", "route_ranges"]

crc_prepare()


cdef uint32_t check_route(int kind, int64_t count, int64_t position) except 0:
    if not ROUTE_MURMUR2 <= kind <= ROUTE_ROUND_ROBIN:
        raise ValueError(f"an unknown partitioner: {kind}")
    if not 1 <= count <= 0x7FFFFFFF:
        raise ValueError(f"a topic has 1 to 2^31 - 1 partitions, not {count}")
    if position < 0:
        raise ValueError(f"a negative position: {position}")
    return <uint32_t>count


def partition_of(key, *, int partitioner, int64_t count, int64_t position) -> int:
    """The partition of one record; see kbr_codec.protocols.Router."""
    cdef uint32_t partitions = check_route(partitioner, count, position)
    if key is None:
        return route_of(partitioner, partitions, NULL, -1, position)
    if not isinstance(key, bytes):
        raise ValueError("a key is bytes or None")
    return route_of(partitioner, partitions, <const uint8_t *>PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key), position)


cdef struct route_run:
    int64_t start
    int64_t count
    int32_t partition


cdef inline int put_run(writer *starts, writer *counts, writer *partitions, const route_run *run) noexcept nogil:
    if (writer_reserve(starts, sizeof(int64_t)) != 0 or writer_reserve(counts, sizeof(int64_t)) != 0
            or writer_reserve(partitions, sizeof(int32_t)) != 0):
        return -1
    writer_bytes(starts, &run.start, sizeof(int64_t))
    writer_bytes(counts, &run.count, sizeof(int64_t))
    writer_bytes(partitions, &run.partition, sizeof(int32_t))
    return 0


cdef int find_routes(
    view *v, int kind, uint32_t partition_count, int64_t position, int64_t timestamp_from, int64_t timestamp_to,
    writer *starts, writer *counts, writer *partitions,
) noexcept nogil:
    cdef view_record record
    cdef route_run run
    cdef int32_t partition
    run.start = run.count = 0
    run.partition = -1
    while view_next(v, &record):
        partition = route_of(kind, partition_count, record.key, record.key_size, position)
        position += 1
        if not timestamp_from <= record.timestamp <= timestamp_to:
            continue
        if run.count and partition == run.partition and record.offset - run.start == run.count:
            run.count += 1
            continue
        if run.count and put_run(starts, counts, partitions, &run) != 0:
            return -1
        run.start = record.offset
        run.count = 1
        run.partition = partition
    return put_run(starts, counts, partitions, &run) if run.count else 0


cdef object bad_block(const view *v):
    kind = Truncated if view_error_kind(v) else Corrupt
    return kind((<bytes>v.at.reason).decode("ascii"), v.at.failed_at)


def route_ranges(
    data, *, int partitioner, int64_t count, int64_t position, int64_t timestamp_from, int64_t timestamp_to,
) -> tuple:
    """A block's offsets as ranges with one partition each; see kbr_codec.protocols.Router."""
    cdef uint32_t partition_count = check_route(partitioner, count, position)
    cdef Py_buffer buffer
    cdef view v
    cdef writer starts
    cdef writer counts
    cdef writer partitions
    cdef int failed
    cdef int full = 0
    starts.data = counts.data = partitions.data = NULL
    starts.size = counts.size = partitions.size = 0
    starts.capacity = counts.capacity = partitions.capacity = 0
    PyObject_GetBuffer(data, &buffer, PyBUF_SIMPLE)
    try:
        with nogil:
            failed = view_open(&v, <const uint8_t *>buffer.buf, <size_t>buffer.len)
            if not failed:
                full = find_routes(
                    &v, partitioner, partition_count, position, timestamp_from, timestamp_to,
                    &starts, &counts, &partitions)
        if failed:
            raise bad_block(&v)
        if full:
            raise MemoryError("no memory for a block's ranges")
        return (
            PyBytes_FromStringAndSize(<const char *>starts.data, <Py_ssize_t>starts.size),
            PyBytes_FromStringAndSize(<const char *>counts.data, <Py_ssize_t>counts.size),
            PyBytes_FromStringAndSize(<const char *>partitions.data, <Py_ssize_t>partitions.size),
        )
    finally:
        writer_free(&starts)
        writer_free(&counts)
        writer_free(&partitions)
        PyBuffer_Release(&buffer)


def count_routes(
    data, counts, *, int partitioner, int64_t count, int64_t position, int64_t timestamp_from, int64_t timestamp_to,
) -> int:
    """Add a block's records to the counts of their partitions; see kbr_codec.protocols.Router."""
    cdef uint32_t partition_count = check_route(partitioner, count, position)
    cdef int64_t[::1] sums = counts
    cdef Py_buffer buffer
    cdef view v
    cdef view_record record
    cdef int failed
    cdef int64_t *first
    cdef int64_t at = position
    if <int64_t>sums.shape[0] != count:
        raise ValueError(f"{sums.shape[0]} counts for {count} partitions")
    first = &sums[0]
    PyObject_GetBuffer(data, &buffer, PyBUF_SIMPLE)
    try:
        with nogil:
            failed = view_open(&v, <const uint8_t *>buffer.buf, <size_t>buffer.len)
            if not failed:
                while view_next(&v, &record):
                    if timestamp_from <= record.timestamp <= timestamp_to:
                        first[route_of(partitioner, partition_count, record.key, record.key_size, at)] += 1
                    at += 1
        if failed:
            raise bad_block(&v)
        return at - position
    finally:
        PyBuffer_Release(&buffer)
