# cython: language_level=3
"""The block codec (docs/format.md, "Block"): records to msgpack columns and back.

The byte layout, in order, is one msgpack map of ten entries:

    v count offset offsets[] timestamp timestamps[] timestamp_types(int|[]) keys[] values[] headers(nil|[])

The work is in _builder.pxd (encode) and _view.pxd (decode), which the data path shares; this
module gives it to Python. kbr_codec.pure says the same in plain Python.
"""

from cpython.buffer cimport PyBUF_FORMAT, PyBUF_ND, PyBUF_SIMPLE, PyBUF_STRIDES, PyBUF_WRITABLE, PyBuffer_Release
from cpython.buffer cimport PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport INT64_MAX, INT64_MIN, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free

from ._builder cimport (
    BUILD_NO_MEMORY, BUILD_OK, block_stats, builder, builder_add, builder_add_header, builder_begin_headers,
    builder_free, builder_init, builder_seal,
)
from ._cursor cimport writer, writer_bytes, writer_free, writer_reserve
from ._msgpack cimport get_int
from ._view cimport view, view_error_kind, view_header, view_next, view_open, view_record, view_record_bytes

from .errors import Corrupt, Truncated
from .protocols import MAX_ITEMS, BlockStats, Record

__all__ = ["RawBlock", "decode_block", "encode_block", "offset_ranges", "scan_block"]

cdef char *UNSIGNED_BYTES = b"B"
cdef int64_t DEFAULT_MAX_ITEMS = MAX_ITEMS


cdef object stats_tuple(const block_stats *s):
    return BlockStats(
        s.record_count, s.first_offset, s.last_offset, s.first_timestamp, s.last_timestamp,
        s.min_timestamp, s.max_timestamp, s.max_record_bytes,
    )


cdef class RawBlock:
    """One encoded block, before compression: read-only memory with its statistics.

    Supports the buffer protocol; freed with the last reference.
    """

    def __cinit__(self):
        self.data = NULL
        self.size = 0

    def __init__(self):
        raise TypeError("blocks come from a source, they aren't made by hand")

    @staticmethod
    cdef RawBlock take(uint8_t *data, size_t size, const block_stats *stats):
        cdef RawBlock block = RawBlock.__new__(RawBlock)
        block.data = data
        block.size = <Py_ssize_t>size
        block.c_stats = stats[0]
        return block

    def __dealloc__(self):
        free(self.data)

    def __len__(self) -> int:
        return self.size

    @property
    def stats(self):
        """BlockStats of the records in it."""
        return stats_tuple(&self.c_stats)

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        if flags & PyBUF_WRITABLE:
            raise BufferError("a block is read-only")
        self.shape = self.size
        self.stride = 1
        buffer.buf = self.data
        buffer.format = NULL
        if flags & PyBUF_FORMAT:
            buffer.format = UNSIGNED_BYTES
        buffer.internal = NULL
        buffer.itemsize = 1
        buffer.len = self.size
        buffer.ndim = 1
        buffer.obj = self
        buffer.readonly = 1
        buffer.shape = &self.shape if flags & PyBUF_ND else NULL
        buffer.strides = &self.stride if (flags & PyBUF_STRIDES) == PyBUF_STRIDES else NULL
        buffer.suboffsets = NULL

    def __releasebuffer__(self, Py_buffer *buffer):
        pass


cdef int check_built(int result) except -1:
    if result == BUILD_OK:
        return 0
    if result == BUILD_NO_MEMORY:
        raise MemoryError("no memory for a block")
    raise ValueError("a key, value or header of more than 2 GiB - 1")


cdef int add_headers(builder *b, object headers) except -1:
    cdef const char *value_data
    cdef int64_t value_size
    if not headers:
        return 0
    check_built(builder_begin_headers(b, <uint32_t>len(headers)))
    for name, value in headers:
        if not isinstance(name, bytes) or not (value is None or isinstance(value, bytes)):
            raise ValueError("a header is a name in bytes and a value in bytes or None")
        value_data = NULL if value is None else PyBytes_AS_STRING(value)
        value_size = -1 if value is None else PyBytes_GET_SIZE(value)
        check_built(builder_add_header(b, PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name), value_data, value_size))
    return 0


cdef int add_record(builder *b, object record) except -1:
    offset, timestamp, timestamp_type, key, value, headers = record
    if not 0 <= offset <= INT64_MAX or (b.stats.record_count and offset <= b.stats.last_offset):
        raise ValueError(f"offsets have to rise strictly from 0 up to 2^63 - 1, got {offset}")
    if not INT64_MIN <= timestamp <= INT64_MAX:
        raise ValueError(f"a timestamp beyond 64 bits signed: {timestamp}")
    if timestamp_type not in (0, 1, 2):
        raise ValueError(f"an unknown timestamp type: {timestamp_type}")
    if not (key is None or isinstance(key, bytes)) or not (value is None or isinstance(value, bytes)):
        raise ValueError("keys and values are bytes or None")
    if b.stats.record_count == 0xFFFFFFFF:
        raise ValueError("more records than a block can count")
    check_built(builder_add(
        b, offset, timestamp, timestamp_type,
        NULL if key is None else PyBytes_AS_STRING(key), -1 if key is None else PyBytes_GET_SIZE(key),
        NULL if value is None else PyBytes_AS_STRING(value), -1 if value is None else PyBytes_GET_SIZE(value),
    ))
    return add_headers(b, headers)


def encode_block(records) -> bytes:
    """Encode records, whose offsets rise strictly; see kbr_codec.protocols.BlockCodec."""
    cdef builder b
    cdef uint8_t *data = NULL
    cdef size_t size = 0
    builder_init(&b)
    try:
        for record in records:
            add_record(&b, record)
        if b.stats.record_count == 0:
            raise ValueError("a block has at least one record")
        check_built(builder_seal(&b, &data, &size))
        try:
            return PyBytes_FromStringAndSize(<char *>data, <Py_ssize_t>size)
        finally:
            free(data)
    finally:
        builder_free(&b)


cdef object view_error(const view *v):
    kind = Truncated if view_error_kind(v) else Corrupt
    return kind((<bytes>v.at.reason).decode("ascii"), v.at.failed_at)


cdef object bytes_or_none(const uint8_t *data, int64_t size):
    if size < 0:
        return None
    return PyBytes_FromStringAndSize(<const char *>data, <Py_ssize_t>size)


cdef object make_record(view_record *record):
    cdef const uint8_t *name = NULL
    cdef const uint8_t *value = NULL
    cdef int64_t name_size = 0
    cdef int64_t value_size = 0
    cdef uint32_t _i
    headers = ()
    if record.header_count:
        pairs = []
        for _i in range(record.header_count):
            view_header(record, &name, &name_size, &value, &value_size)
            pairs.append((bytes_or_none(name, name_size), bytes_or_none(value, value_size)))
        headers = tuple(pairs)
    return Record(
        record.offset, record.timestamp, record.timestamp_type,
        bytes_or_none(record.key, record.key_size), bytes_or_none(record.value, record.value_size), headers,
    )


cdef object too_many(int64_t max_items):
    return Corrupt(f"more than {max_items} records and headers", 0)


def decode_block(data, *, int64_t max_items=DEFAULT_MAX_ITEMS) -> list:
    """Decode a whole block; see kbr_codec.protocols.BlockCodec."""
    cdef Py_buffer buffer
    cdef view v
    cdef view_record record
    cdef int failed
    cdef int64_t items = 0
    PyObject_GetBuffer(data, &buffer, PyBUF_SIMPLE)
    try:
        with nogil:
            failed = view_open(&v, <const uint8_t *>buffer.buf, <size_t>buffer.len)
        if failed:
            raise view_error(&v)
        if <int64_t>v.count > max_items:
            raise too_many(max_items)
        records = []
        while view_next(&v, &record):
            items += 1 + <int64_t>record.header_count
            if items > max_items:
                raise too_many(max_items)
            records.append(make_record(&record))
        return records
    finally:
        PyBuffer_Release(&buffer)


cdef void scan(view *v, block_stats *s) noexcept nogil:
    cdef view_record record
    cdef int64_t size
    s.record_count = 0
    s.max_record_bytes = 0
    while view_next(v, &record):
        if s.record_count == 0:
            s.first_offset = record.offset
            s.first_timestamp = record.timestamp
            s.min_timestamp = record.timestamp
            s.max_timestamp = record.timestamp
        s.record_count += 1
        s.last_offset = record.offset
        s.last_timestamp = record.timestamp
        if record.timestamp < s.min_timestamp:
            s.min_timestamp = record.timestamp
        if record.timestamp > s.max_timestamp:
            s.max_timestamp = record.timestamp
        size = view_record_bytes(&record)
        if size > s.max_record_bytes:
            s.max_record_bytes = size


def scan_block(data):
    """Check a whole block without making records; see kbr_codec.protocols.BlockCodec."""
    cdef Py_buffer buffer
    cdef view v
    cdef block_stats s
    cdef int failed
    PyObject_GetBuffer(data, &buffer, PyBUF_SIMPLE)
    try:
        with nogil:
            failed = view_open(&v, <const uint8_t *>buffer.buf, <size_t>buffer.len)
            if not failed:
                scan(&v, &s)
        if failed:
            raise view_error(&v)
        return stats_tuple(&s)
    finally:
        PyBuffer_Release(&buffer)


cdef int find_ranges(
    view *v, int64_t timestamp_from, int64_t timestamp_to, writer *starts, writer *counts,
) noexcept nogil:
    """Walks the two columns that matter of a block that view_open has checked; -1 when there is no memory."""
    cdef int64_t number = 0
    cdef int64_t start = 0
    cdef int64_t count = 0
    cdef uint32_t _i
    for _i in range(v.count):
        get_int(&v.offsets, &number)
        v.offset += number
        get_int(&v.timestamps, &number)
        v.timestamp = <int64_t>(<uint64_t>v.timestamp + <uint64_t>number)
        if not timestamp_from <= v.timestamp <= timestamp_to:
            continue
        if count and v.offset - start == count:
            count += 1
            continue
        if count and put_range(starts, counts, start, count) != 0:
            return -1
        start = v.offset
        count = 1
    return put_range(starts, counts, start, count) if count else 0


cdef inline int put_range(writer *starts, writer *counts, int64_t start, int64_t count) noexcept nogil:
    if writer_reserve(starts, sizeof(int64_t)) != 0 or writer_reserve(counts, sizeof(int64_t)) != 0:
        return -1
    writer_bytes(starts, &start, sizeof(int64_t))
    writer_bytes(counts, &count, sizeof(int64_t))
    return 0


def offset_ranges(data, *, int64_t timestamp_from, int64_t timestamp_to) -> tuple:
    """The offsets of a block's records, as ranges; see kbr_codec.protocols.BlockCodec."""
    cdef Py_buffer buffer
    cdef view v
    cdef writer starts
    cdef writer counts
    cdef int failed
    cdef int full = 0
    starts.data = counts.data = NULL
    starts.size = counts.size = 0
    starts.capacity = counts.capacity = 0
    PyObject_GetBuffer(data, &buffer, PyBUF_SIMPLE)
    try:
        with nogil:
            failed = view_open(&v, <const uint8_t *>buffer.buf, <size_t>buffer.len)
            if not failed:
                full = find_ranges(&v, timestamp_from, timestamp_to, &starts, &counts)
        if failed:
            raise view_error(&v)
        if full:
            raise MemoryError("no memory for a block's ranges")
        return (
            PyBytes_FromStringAndSize(<const char *>starts.data, <Py_ssize_t>starts.size),
            PyBytes_FromStringAndSize(<const char *>counts.data, <Py_ssize_t>counts.size),
        )
    finally:
        writer_free(&starts)
        writer_free(&counts)
        PyBuffer_Release(&buffer)
