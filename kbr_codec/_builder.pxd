# cython: language_level=3
"""One block under construction: records in, columns of msgpack out. Plain C, no Python objects.

Inline, so that the source's loop over fetched records and encode_block share one encoder without
a call through a capsule per record. The owner frees it; its buffers are kept from block to block.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport malloc
from libc.string cimport memcpy, memset

from ._cursor cimport writer, writer_bytes, writer_free, writer_reserve, writer_u8
from ._msgpack cimport MSGPACK_HEAD_MAX, put_array_head, put_bin_head, put_int, put_nil

cdef enum:
    BUILD_OK = 0
    BUILD_NO_MEMORY = -1
    BUILD_TOO_LARGE = -2
    # 4-byte lengths: msgpack's bin32, and Kafka's own int32 sizes stay below it.
    BIN_MAX = 0x7FFFFFFF


cdef struct block_stats:
    uint32_t record_count
    int64_t first_offset
    int64_t last_offset
    int64_t first_timestamp
    int64_t last_timestamp
    int64_t min_timestamp
    int64_t max_timestamp
    int64_t max_record_bytes


cdef struct builder:
    writer offsets
    writer timestamps
    writer types           # empty while all types are the same
    writer keys
    writer values
    writer headers         # empty while no record has headers
    uint8_t first_type
    int64_t record_bytes   # key + value + headers of the record being added
    block_stats stats


cdef inline void builder_init(builder *b) noexcept nogil:
    memset(b, 0, sizeof(builder))


cdef inline void builder_free(builder *b) noexcept nogil:
    writer_free(&b.offsets)
    writer_free(&b.timestamps)
    writer_free(&b.types)
    writer_free(&b.keys)
    writer_free(&b.values)
    writer_free(&b.headers)


cdef inline void builder_clear(builder *b) noexcept nogil:
    """Forget the records, keep the buffers."""
    b.offsets.size = 0
    b.timestamps.size = 0
    b.types.size = 0
    b.keys.size = 0
    b.values.size = 0
    b.headers.size = 0
    memset(&b.stats, 0, sizeof(block_stats))


cdef inline size_t builder_size(const builder *b) noexcept nogil:
    """Bytes that the block takes so far, without its head."""
    return b.offsets.size + b.timestamps.size + b.types.size + b.keys.size + b.values.size + b.headers.size


cdef inline size_t builder_capacity(const builder *b) noexcept nogil:
    return (b.offsets.capacity + b.timestamps.capacity + b.types.capacity + b.keys.capacity + b.values.capacity
            + b.headers.capacity)


cdef inline int put_column(writer *w, const void *data, int64_t size) noexcept nogil:
    """One key or value: a bin, or nil for size -1."""
    if size > BIN_MAX:
        return BUILD_TOO_LARGE
    if writer_reserve(w, MSGPACK_HEAD_MAX + <size_t>(size if size > 0 else 0)) != 0:
        return BUILD_NO_MEMORY
    if size < 0:
        put_nil(w)
    else:
        put_bin_head(w, <uint32_t>size)
        writer_bytes(w, data, <size_t>size)
    return BUILD_OK


cdef inline int builder_add(
    builder *b, int64_t offset, int64_t timestamp, uint8_t timestamp_type,
    const void *key, int64_t key_size, const void *value, int64_t value_size,
) noexcept nogil:
    """Add a record without its headers; ``offset`` is above the last one (the caller has checked).

    Sizes of -1 are nulls. On an error the builder must not be used again.
    """
    cdef block_stats *s = &b.stats
    cdef uint32_t _i
    cdef int result
    if (writer_reserve(&b.offsets, MSGPACK_HEAD_MAX) != 0 or writer_reserve(&b.timestamps, MSGPACK_HEAD_MAX) != 0):
        return BUILD_NO_MEMORY
    if s.record_count == 0:
        s.first_offset = offset
        s.last_offset = offset
        s.first_timestamp = timestamp
        s.last_timestamp = timestamp
        s.min_timestamp = timestamp
        s.max_timestamp = timestamp
        b.first_type = timestamp_type
    put_int(&b.offsets, offset - s.last_offset)
    # unsigned: the difference of two int64 wraps modulo 2^64, as the format says
    put_int(&b.timestamps, <int64_t>(<uint64_t>timestamp - <uint64_t>s.last_timestamp))
    if timestamp_type != b.first_type and b.types.size == 0:
        if writer_reserve(&b.types, <size_t>s.record_count + 1) != 0:
            return BUILD_NO_MEMORY
        for _i in range(s.record_count):
            writer_u8(&b.types, b.first_type)
    if timestamp_type != b.first_type or b.types.size != 0:
        if writer_reserve(&b.types, 1) != 0:
            return BUILD_NO_MEMORY
        writer_u8(&b.types, timestamp_type)
    result = put_column(&b.keys, key, key_size)
    if result != BUILD_OK:
        return result
    result = put_column(&b.values, value, value_size)
    if result != BUILD_OK:
        return result
    if b.headers.size != 0:
        if writer_reserve(&b.headers, 1) != 0:
            return BUILD_NO_MEMORY
        put_nil(&b.headers)
    s.record_count += 1
    s.last_offset = offset
    s.last_timestamp = timestamp
    if timestamp < s.min_timestamp:
        s.min_timestamp = timestamp
    if timestamp > s.max_timestamp:
        s.max_timestamp = timestamp
    b.record_bytes = (key_size if key_size > 0 else 0) + (value_size if value_size > 0 else 0)
    if b.record_bytes > s.max_record_bytes:
        s.max_record_bytes = b.record_bytes
    return BUILD_OK


cdef inline int builder_begin_headers(builder *b, uint32_t count) noexcept nogil:
    """Announce ``count`` >= 1 headers of the record just added; builder_add_header follows for each."""
    cdef uint32_t _i
    if count > BIN_MAX:
        return BUILD_TOO_LARGE
    if b.headers.size == 0:
        if writer_reserve(&b.headers, <size_t>b.stats.record_count) != 0:
            return BUILD_NO_MEMORY
        for _i in range(b.stats.record_count - 1):
            put_nil(&b.headers)
    else:
        b.headers.size -= 1        # the nil that builder_add wrote for this record
    if writer_reserve(&b.headers, MSGPACK_HEAD_MAX) != 0:
        return BUILD_NO_MEMORY
    put_array_head(&b.headers, count * 2)
    return BUILD_OK


cdef inline int builder_add_header(
    builder *b, const void *name, int64_t name_size, const void *value, int64_t value_size,
) noexcept nogil:
    cdef int result = put_column(&b.headers, name, name_size)
    if result != BUILD_OK:
        return result
    result = put_column(&b.headers, value, value_size)
    if result != BUILD_OK:
        return result
    b.record_bytes += name_size + (value_size if value_size > 0 else 0)
    if b.record_bytes > b.stats.max_record_bytes:
        b.stats.max_record_bytes = b.record_bytes
    return BUILD_OK


cdef inline void put_key(writer *w, const char *text, uint8_t size) noexcept nogil:
    writer_u8(w, <uint8_t>(0xA0 | size))
    writer_bytes(w, text, size)


cdef inline void put_array(writer *w, uint32_t count, const writer *column) noexcept nogil:
    put_array_head(w, count)
    writer_bytes(w, column.data, column.size)


cdef inline int builder_seal(builder *b, uint8_t **block, size_t *size) noexcept nogil:
    """Put the columns together into one malloc'ed block that the caller owns, and clear the builder."""
    cdef writer w
    cdef uint32_t count = b.stats.record_count
    # ten keys of at most 16 bytes with their heads, ten heads of values: below 256
    w.capacity = builder_size(b) + 256
    w.size = 0
    w.data = <uint8_t *>malloc(w.capacity)
    if w.data == NULL:
        return BUILD_NO_MEMORY
    writer_u8(&w, 0x8A)
    put_key(&w, b"v", 1)
    put_int(&w, 1)
    put_key(&w, b"count", 5)
    put_int(&w, count)
    put_key(&w, b"offset", 6)
    put_int(&w, b.stats.first_offset)
    put_key(&w, b"offsets", 7)
    put_array(&w, count, &b.offsets)
    put_key(&w, b"timestamp", 9)
    put_int(&w, b.stats.first_timestamp)
    put_key(&w, b"timestamps", 10)
    put_array(&w, count, &b.timestamps)
    put_key(&w, b"timestamp_types", 15)
    if b.types.size == 0:
        put_int(&w, b.first_type)
    else:
        put_array(&w, count, &b.types)
    put_key(&w, b"keys", 4)
    put_array(&w, count, &b.keys)
    put_key(&w, b"values", 6)
    put_array(&w, count, &b.values)
    put_key(&w, b"headers", 7)
    if b.headers.size == 0:
        put_nil(&w)
    else:
        put_array(&w, count, &b.headers)
    block[0] = w.data
    size[0] = w.size
    return BUILD_OK
