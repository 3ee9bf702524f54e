# cython: language_level=3
"""msgpack values on the cursors: only the kinds that a block uses (docs/format.md, "Block").

Source: the msgpack specification (github.com/msgpack/msgpack, spec.md). Writers use the shortest
form and need MSGPACK_HEAD_MAX bytes reserved for a head; readers take every form.
"""

from libc.stdint cimport INT64_MAX, int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp

from ._cursor cimport (
    READ_CORRUPT, load16, load32, load64, reader, reader_fail, reader_take, store16, store32, store64, writer,
    writer_u8,
)

cdef enum:
    MSGPACK_HEAD_MAX = 9
    MSGPACK_NIL = 0xC0


cdef inline void put_int(writer *w, int64_t value) noexcept nogil:
    cdef uint8_t *p = w.data + w.size
    if value >= 0:
        if value < 0x80:
            p[0] = <uint8_t>value
            w.size += 1
        elif value <= 0xFF:
            p[0] = 0xCC
            p[1] = <uint8_t>value
            w.size += 2
        elif value <= 0xFFFF:
            p[0] = 0xCD
            store16(p + 1, <uint16_t>value)
            w.size += 3
        elif value <= <int64_t>0xFFFFFFFF:
            p[0] = 0xCE
            store32(p + 1, <uint32_t>value)
            w.size += 5
        else:
            p[0] = 0xCF
            store64(p + 1, <uint64_t>value)
            w.size += 9
    elif value >= -32:
        p[0] = <uint8_t>(0x100 + value)
        w.size += 1
    elif value >= -0x80:
        p[0] = 0xD0
        p[1] = <uint8_t>(0x100 + value)
        w.size += 2
    elif value >= -0x8000:
        p[0] = 0xD1
        store16(p + 1, <uint16_t>(0x10000 + value))
        w.size += 3
    elif value >= -<int64_t>0x80000000:
        p[0] = 0xD2
        store32(p + 1, <uint32_t>(<int64_t>0x100000000 + value))
        w.size += 5
    else:
        p[0] = 0xD3
        store64(p + 1, <uint64_t>value)
        w.size += 9


cdef inline void put_bin_head(writer *w, uint32_t size) noexcept nogil:
    cdef uint8_t *p = w.data + w.size
    if size <= 0xFF:
        p[0] = 0xC4
        p[1] = <uint8_t>size
        w.size += 2
    elif size <= 0xFFFF:
        p[0] = 0xC5
        store16(p + 1, <uint16_t>size)
        w.size += 3
    else:
        p[0] = 0xC6
        store32(p + 1, size)
        w.size += 5


cdef inline void put_array_head(writer *w, uint32_t count) noexcept nogil:
    cdef uint8_t *p = w.data + w.size
    if count < 16:
        p[0] = <uint8_t>(0x90 | count)
        w.size += 1
    elif count <= 0xFFFF:
        p[0] = 0xDC
        store16(p + 1, <uint16_t>count)
        w.size += 3
    else:
        p[0] = 0xDD
        store32(p + 1, count)
        w.size += 5


cdef inline void put_nil(writer *w) noexcept nogil:
    writer_u8(w, MSGPACK_NIL)


cdef inline int get_int(reader *r, int64_t *value) noexcept nogil:
    """An integer within int64. Returns -1 with the reader failed otherwise."""
    cdef const uint8_t *start = r.pos
    cdef const uint8_t *p = reader_take(r, 1)
    cdef uint8_t head
    cdef uint64_t wide
    if p == NULL:
        return -1
    head = p[0]
    if head < 0x80:
        value[0] = head
        return 0
    if head >= 0xE0:
        value[0] = <int64_t>head - 0x100
        return 0
    if head == 0xCC or head == 0xD0:
        p = reader_take(r, 1)
        if p == NULL:
            return -1
        value[0] = <int64_t>p[0] if head == 0xCC else <int64_t><int8_t>p[0]
        return 0
    if head == 0xCD or head == 0xD1:
        p = reader_take(r, 2)
        if p == NULL:
            return -1
        value[0] = <int64_t>load16(p) if head == 0xCD else <int64_t><int16_t>load16(p)
        return 0
    if head == 0xCE or head == 0xD2:
        p = reader_take(r, 4)
        if p == NULL:
            return -1
        value[0] = <int64_t>load32(p) if head == 0xCE else <int64_t><int32_t>load32(p)
        return 0
    if head == 0xCF or head == 0xD3:
        p = reader_take(r, 8)
        if p == NULL:
            return -1
        wide = load64(p)
        if head == 0xCF and wide > <uint64_t>INT64_MAX:
            r.pos = start
            return reader_fail(r, READ_CORRUPT, b"an integer beyond 64 bits signed")
        value[0] = <int64_t>wide
        return 0
    r.pos = start
    return reader_fail(r, READ_CORRUPT, b"no integer where one has to be")


cdef inline int get_array_head(reader *r, uint32_t *count) noexcept nogil:
    cdef const uint8_t *start = r.pos
    cdef const uint8_t *p = reader_take(r, 1)
    cdef uint8_t head
    if p == NULL:
        return -1
    head = p[0]
    if 0x90 <= head <= 0x9F:
        count[0] = head & 0x0F
        return 0
    if head == 0xDC:
        p = reader_take(r, 2)
        if p == NULL:
            return -1
        count[0] = load16(p)
        return 0
    if head == 0xDD:
        p = reader_take(r, 4)
        if p == NULL:
            return -1
        count[0] = load32(p)
        return 0
    r.pos = start
    return reader_fail(r, READ_CORRUPT, b"no array where one has to be")


cdef inline int get_map_head(reader *r, uint32_t *count) noexcept nogil:
    cdef const uint8_t *start = r.pos
    cdef const uint8_t *p = reader_take(r, 1)
    cdef uint8_t head
    if p == NULL:
        return -1
    head = p[0]
    if 0x80 <= head <= 0x8F:
        count[0] = head & 0x0F
        return 0
    if head == 0xDE:
        p = reader_take(r, 2)
        if p == NULL:
            return -1
        count[0] = load16(p)
        return 0
    if head == 0xDF:
        p = reader_take(r, 4)
        if p == NULL:
            return -1
        count[0] = load32(p)
        return 0
    r.pos = start
    return reader_fail(r, READ_CORRUPT, b"no map where one has to be")


cdef inline int get_bin_or_nil(reader *r, const uint8_t **data, int64_t *size) noexcept nogil:
    """A bin (data, size) or nil (NULL, -1)."""
    cdef const uint8_t *start = r.pos
    cdef const uint8_t *p = reader_take(r, 1)
    cdef uint8_t head
    cdef uint32_t length
    if p == NULL:
        return -1
    head = p[0]
    if head == MSGPACK_NIL:
        data[0] = NULL
        size[0] = -1
        return 0
    if head == 0xC4:
        p = reader_take(r, 1)
        if p == NULL:
            return -1
        length = p[0]
    elif head == 0xC5:
        p = reader_take(r, 2)
        if p == NULL:
            return -1
        length = load16(p)
    elif head == 0xC6:
        p = reader_take(r, 4)
        if p == NULL:
            return -1
        length = load32(p)
    else:
        r.pos = start
        return reader_fail(r, READ_CORRUPT, b"neither bin nor nil where one has to be")
    p = reader_take(r, length)
    if p == NULL:
        return -1
    data[0] = p
    size[0] = length
    return 0


cdef inline int expect_str(reader *r, const char *text, uint32_t size) noexcept nogil:
    """Exactly this str, in any length format."""
    cdef const uint8_t *start = r.pos
    cdef const uint8_t *p = reader_take(r, 1)
    cdef uint8_t head
    cdef uint32_t length
    if p == NULL:
        return -1
    head = p[0]
    if 0xA0 <= head <= 0xBF:
        length = head & 0x1F
    elif head == 0xD9:
        p = reader_take(r, 1)
        if p == NULL:
            return -1
        length = p[0]
    elif head == 0xDA:
        p = reader_take(r, 2)
        if p == NULL:
            return -1
        length = load16(p)
    elif head == 0xDB:
        p = reader_take(r, 4)
        if p == NULL:
            return -1
        length = load32(p)
    else:
        r.pos = start
        return reader_fail(r, READ_CORRUPT, b"no str where a key has to be")
    if length != size:
        r.pos = start
        return reader_fail(r, READ_CORRUPT, b"another key than the one that has to come here")
    p = reader_take(r, length)
    if p == NULL:
        return -1
    if memcmp(p, text, size) != 0:
        r.pos = start
        return reader_fail(r, READ_CORRUPT, b"another key than the one that has to come here")
    return 0
