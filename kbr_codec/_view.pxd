# cython: language_level=3
"""One block being read: checked whole by view_open, then walked record by record. Plain C.

view_open touches every byte once through the checked reader and finds where each column begins;
view_next then walks six readers in step. No allocation depends on what the block claims.
"""

from libc.stdint cimport INT64_MAX, int64_t, uint8_t, uint32_t, uint64_t

from ._cursor cimport READ_CORRUPT, READ_TRUNCATED, reader, reader_fail, reader_init, reader_left
from ._msgpack cimport MSGPACK_NIL, expect_str, get_array_head, get_bin_or_nil, get_int, get_map_head


cdef struct view:
    reader at              # the whole block; holds the failure
    reader offsets
    reader timestamps
    reader types           # start NULL: all records have one_type
    reader keys
    reader values
    reader headers         # start NULL: no record has headers
    uint8_t one_type
    uint32_t count
    uint32_t seen
    int64_t offset         # of the record before the next one; of the first at the beginning
    int64_t timestamp


cdef struct view_record:
    int64_t offset
    int64_t timestamp
    uint8_t timestamp_type
    const uint8_t *key
    int64_t key_size       # -1: null
    const uint8_t *value
    int64_t value_size
    uint32_t header_count
    reader headers         # at the first name; view_header takes one


cdef inline int view_array(reader *r, uint32_t count) noexcept nogil:
    cdef uint32_t found
    if get_array_head(r, &found) != 0:
        return -1
    if found != count:
        return reader_fail(r, READ_CORRUPT, b"a column that has not as many entries as the block has records")
    return 0


cdef inline int view_types(view *v) noexcept nogil:
    cdef reader *r = &v.at
    cdef int64_t number
    cdef uint32_t _i
    if reader_left(r) and not (0x90 <= r.pos[0] <= 0x9F or r.pos[0] == 0xDC or r.pos[0] == 0xDD):
        if get_int(r, &number) != 0:
            return -1
        if not 0 <= number <= 2:
            return reader_fail(r, READ_CORRUPT, b"an unknown timestamp type")
        v.one_type = <uint8_t>number
        return 0
    if view_array(r, v.count) != 0:
        return -1
    v.types = r[0]
    for _i in range(v.count):
        if get_int(r, &number) != 0:
            return -1
        if not 0 <= number <= 2:
            return reader_fail(r, READ_CORRUPT, b"an unknown timestamp type")
    return 0


cdef inline int view_column(view *v, reader *column) noexcept nogil:
    cdef reader *r = &v.at
    cdef const uint8_t *data
    cdef int64_t size
    cdef uint32_t _i
    if view_array(r, v.count) != 0:
        return -1
    column[0] = r[0]
    for _i in range(v.count):
        if get_bin_or_nil(r, &data, &size) != 0:
            return -1
    return 0


cdef inline int view_headers(view *v) noexcept nogil:
    cdef reader *r = &v.at
    cdef const uint8_t *data
    cdef int64_t size
    cdef uint32_t _i, j, count
    if reader_left(r) and r.pos[0] == MSGPACK_NIL:
        r.pos += 1
        return 0
    if view_array(r, v.count) != 0:
        return -1
    v.headers = r[0]
    for _i in range(v.count):
        if reader_left(r) and r.pos[0] == MSGPACK_NIL:
            r.pos += 1
            continue
        if get_array_head(r, &count) != 0:
            return -1
        if count == 0 or count % 2:
            return reader_fail(r, READ_CORRUPT, b"headers that are not names and values in turn")
        for j in range(count):
            if get_bin_or_nil(r, &data, &size) != 0:
                return -1
            if j % 2 == 0 and size < 0:
                return reader_fail(r, READ_CORRUPT, b"a header without a name")
    return 0


cdef inline int view_open(view *v, const uint8_t *data, size_t size) noexcept nogil:
    """Check the whole block. 0, or -1 with v.at failed: class, reason and position are there."""
    cdef reader *r = &v.at
    cdef uint32_t entries, i
    cdef int64_t number, offset
    reader_init(r, data, size)
    v.types.start = NULL
    v.headers.start = NULL
    v.seen = 0
    if get_map_head(r, &entries) != 0:
        return -1
    if entries != 10:
        return reader_fail(r, READ_CORRUPT, b"a block has ten entries")
    if expect_str(r, b"v", 1) != 0 or get_int(r, &number) != 0:
        return -1
    if number != 1:
        return reader_fail(r, READ_CORRUPT, b"an unknown block version")
    if expect_str(r, b"count", 5) != 0 or get_int(r, &number) != 0:
        return -1
    # each record takes at least one byte in each of four columns; one is enough to bound the count
    if number < 1 or <uint64_t>number > <uint64_t>reader_left(r) or number > <int64_t>0xFFFFFFFF:
        return reader_fail(r, READ_CORRUPT, b"a record count that the block can't hold")
    v.count = <uint32_t>number
    if expect_str(r, b"offset", 6) != 0 or get_int(r, &v.offset) != 0:
        return -1
    if v.offset < 0:
        return reader_fail(r, READ_CORRUPT, b"a negative offset")
    if expect_str(r, b"offsets", 7) != 0 or view_array(r, v.count) != 0:
        return -1
    v.offsets = r[0]
    offset = v.offset
    for i in range(v.count):
        if get_int(r, &number) != 0:
            return -1
        if (number != 0) if i == 0 else (number < 1):
            return reader_fail(r, READ_CORRUPT, b"offsets that don't rise")
        if number > INT64_MAX - offset:
            return reader_fail(r, READ_CORRUPT, b"an offset beyond 64 bits")
        offset += number
    if expect_str(r, b"timestamp", 9) != 0 or get_int(r, &v.timestamp) != 0:
        return -1
    if expect_str(r, b"timestamps", 10) != 0 or view_array(r, v.count) != 0:
        return -1
    v.timestamps = r[0]
    for i in range(v.count):
        if get_int(r, &number) != 0:
            return -1
        if i == 0 and number != 0:
            return reader_fail(r, READ_CORRUPT, b"a first timestamp difference that is not 0")
    if expect_str(r, b"timestamp_types", 15) != 0 or view_types(v) != 0:
        return -1
    if expect_str(r, b"keys", 4) != 0 or view_column(v, &v.keys) != 0:
        return -1
    if expect_str(r, b"values", 6) != 0 or view_column(v, &v.values) != 0:
        return -1
    if expect_str(r, b"headers", 7) != 0 or view_headers(v) != 0:
        return -1
    if reader_left(r):
        return reader_fail(r, READ_CORRUPT, b"bytes after the block's end")
    return 0


cdef inline bint view_next(view *v, view_record *record) noexcept nogil:
    """The next record of a block that view_open has checked; False at its end."""
    cdef int64_t number = 0
    cdef uint32_t count = 0
    if v.seen == v.count:
        return False
    v.seen += 1
    get_int(&v.offsets, &number)
    v.offset += number
    record.offset = v.offset
    get_int(&v.timestamps, &number)
    v.timestamp = <int64_t>(<uint64_t>v.timestamp + <uint64_t>number)
    record.timestamp = v.timestamp
    if v.types.start == NULL:
        record.timestamp_type = v.one_type
    else:
        get_int(&v.types, &number)
        record.timestamp_type = <uint8_t>number
    get_bin_or_nil(&v.keys, &record.key, &record.key_size)
    get_bin_or_nil(&v.values, &record.value, &record.value_size)
    record.header_count = 0
    if v.headers.start != NULL:
        if v.headers.pos[0] == MSGPACK_NIL:
            v.headers.pos += 1
        else:
            get_array_head(&v.headers, &count)
            record.header_count = count // 2
            record.headers = v.headers
            view_skip_headers(&v.headers, count)
    return True


cdef inline void view_skip_headers(reader *r, uint32_t count) noexcept nogil:
    cdef const uint8_t *data
    cdef int64_t size
    cdef uint32_t _i
    for _i in range(count):
        get_bin_or_nil(r, &data, &size)


cdef inline void view_header(
    view_record *record, const uint8_t **name, int64_t *name_size, const uint8_t **value, int64_t *value_size,
) noexcept nogil:
    """Take one of record.header_count headers."""
    get_bin_or_nil(&record.headers, name, name_size)
    get_bin_or_nil(&record.headers, value, value_size)


cdef inline int64_t view_record_bytes(const view_record *record) noexcept nogil:
    """Key + value + header names and values of a record, bytes."""
    cdef int64_t total = (record.key_size if record.key_size > 0 else 0) + (
        record.value_size if record.value_size > 0 else 0)
    cdef reader r
    cdef const uint8_t *data
    cdef int64_t size = 0
    cdef uint32_t _i
    if record.header_count:
        r = record.headers
        for _i in range(record.header_count * 2):
            get_bin_or_nil(&r, &data, &size)
            if size > 0:
                total += size
    return total


cdef inline bint view_error_kind(const view *v) noexcept nogil:
    """True when the block was cut short, False when it is wrong."""
    return v.at.failure == READ_TRUNCATED
