# cython: language_level=3
"""The two cursors through which all block bytes go: a checked reader and a growing writer.

Nothing else in kbr_codec indexes raw memory. A reader never passes its end and keeps its first
error; a writer grows by doubling, up to a limit given by its owner, and keeps "no memory" as a flag.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy

cdef extern from *:
    """
    #include <stdint.h>
    /* Big-endian loads and stores: byte by byte, so neither alignment nor host order matters;
       compilers turn each into one instruction. */
    static inline uint16_t kbr_load16(const uint8_t *p) {
        return (uint16_t)((uint16_t)p[0] << 8 | p[1]);
    }
    static inline uint32_t kbr_load32(const uint8_t *p) {
        return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
    }
    static inline uint64_t kbr_load64(const uint8_t *p) {
        return (uint64_t)kbr_load32(p) << 32 | kbr_load32(p + 4);
    }
    static inline void kbr_store16(uint8_t *p, uint16_t v) {
        p[0] = (uint8_t)(v >> 8); p[1] = (uint8_t)v;
    }
    static inline void kbr_store32(uint8_t *p, uint32_t v) {
        p[0] = (uint8_t)(v >> 24); p[1] = (uint8_t)(v >> 16); p[2] = (uint8_t)(v >> 8); p[3] = (uint8_t)v;
    }
    static inline void kbr_store64(uint8_t *p, uint64_t v) {
        kbr_store32(p, (uint32_t)(v >> 32)); kbr_store32(p + 4, (uint32_t)v);
    }
    """
    uint16_t load16 "kbr_load16"(const uint8_t *p) noexcept nogil
    uint32_t load32 "kbr_load32"(const uint8_t *p) noexcept nogil
    uint64_t load64 "kbr_load64"(const uint8_t *p) noexcept nogil
    void store16 "kbr_store16"(uint8_t *p, uint16_t v) noexcept nogil
    void store32 "kbr_store32"(uint8_t *p, uint32_t v) noexcept nogil
    void store64 "kbr_store64"(uint8_t *p, uint64_t v) noexcept nogil


cdef enum:
    READ_OK = 0
    READ_TRUNCATED = 1
    READ_CORRUPT = 2


cdef struct reader:
    const uint8_t *start
    const uint8_t *pos
    const uint8_t *end
    int failure            # READ_*: the first one stays
    const char *reason
    size_t failed_at       # bytes from start


cdef inline void reader_init(reader *r, const uint8_t *data, size_t size) noexcept nogil:
    r.start = data
    r.pos = data
    r.end = data + size
    r.failure = READ_OK
    r.reason = NULL
    r.failed_at = 0


cdef inline size_t reader_left(const reader *r) noexcept nogil:
    return <size_t>(r.end - r.pos)


cdef inline int reader_fail(reader *r, int failure, const char *reason) noexcept nogil:
    if r.failure == READ_OK:
        r.failure = failure
        r.reason = reason
        r.failed_at = <size_t>(r.pos - r.start)
    return -1


cdef inline const uint8_t *reader_take(reader *r, size_t size) noexcept nogil:
    """The next ``size`` bytes, or NULL with the reader failed when there are fewer."""
    cdef const uint8_t *at = r.pos
    if size > reader_left(r):
        reader_fail(r, READ_TRUNCATED, b"the data ends in the middle of a value")
        return NULL
    r.pos += size
    return at


cdef struct writer:
    uint8_t *data
    size_t size
    size_t capacity


cdef inline int writer_reserve(writer *w, size_t extra) noexcept nogil:
    """Make room for ``extra`` bytes more; -1 when there is no memory (nothing is lost then)."""
    cdef size_t need, capacity
    cdef uint8_t *grown
    if extra <= w.capacity - w.size:
        return 0
    need = w.size + extra
    if need < w.size:
        return -1
    capacity = w.capacity * 2 if w.capacity else 256
    if capacity < need:
        capacity = need
    grown = <uint8_t *>realloc(w.data, capacity)
    if grown == NULL:
        return -1
    w.data = grown
    w.capacity = capacity
    return 0


cdef inline void writer_free(writer *w) noexcept nogil:
    free(w.data)
    w.data = NULL
    w.size = 0
    w.capacity = 0


# The put functions below write into room that the caller has reserved.

cdef inline void writer_u8(writer *w, uint8_t value) noexcept nogil:
    w.data[w.size] = value
    w.size += 1


cdef inline void writer_bytes(writer *w, const void *data, size_t size) noexcept nogil:
    if size:
        memcpy(w.data + w.size, data, size)
    w.size += size
