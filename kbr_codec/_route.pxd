# cython: language_level=3
"""Which partition a record goes to: the partitioners of Kafka's clients, in plain C.

murmur2 is the Java client's (org.apache.kafka.common.utils.Utils.murmur2, as a positive number), and librdkafka's
murmur2 (rdmurmur2.c). consistent is librdkafka's CRC-32 (rd_kafka_msg_partitioner_consistent). Both clients give
records without a key anywhere; here they go round, by their position, so that the same record always goes to the same
partition. An empty key is a key.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t


cdef extern from *:
    """
    #include <stdint.h>

    static uint32_t kbr_crc_table[256];

    static void kbr_crc_prepare(void) {
        for (uint32_t i = 0; i < 256; i++) {
            uint32_t c = i;
            for (int k = 0; k < 8; k++)
                c = c & 1 ? 0xEDB88320u ^ (c >> 1) : c >> 1;
            kbr_crc_table[i] = c;
        }
    }

    static uint32_t kbr_crc32(const uint8_t *data, int64_t size) {
        uint32_t c = 0xFFFFFFFFu;
        for (int64_t i = 0; i < size; i++)
            c = kbr_crc_table[(c ^ data[i]) & 0xFF] ^ (c >> 8);
        return c ^ 0xFFFFFFFFu;
    }

    static uint32_t kbr_murmur2(const uint8_t *data, int64_t size) {
        const uint32_t m = 0x5bd1e995u;
        uint32_t h = 0x9747b28cu ^ (uint32_t)size;
        int64_t words = size / 4;
        for (int64_t i = 0; i < words; i++) {
            const uint8_t *p = data + i * 4;
            uint32_t k = (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
            k *= m;
            k ^= k >> 24;
            k *= m;
            h *= m;
            h ^= k;
        }
        const uint8_t *rest = data + words * 4;
        switch (size % 4) {
        case 3:
            h ^= (uint32_t)rest[2] << 16;
            /* fall through */
        case 2:
            h ^= (uint32_t)rest[1] << 8;
            /* fall through */
        case 1:
            h ^= (uint32_t)rest[0];
            h *= m;
        }
        h ^= h >> 13;
        h *= m;
        h ^= h >> 15;
        return h;
    }
    """
    void crc_prepare "kbr_crc_prepare"() noexcept nogil
    uint32_t crc32 "kbr_crc32"(const uint8_t *data, int64_t size) noexcept nogil
    uint32_t murmur2 "kbr_murmur2"(const uint8_t *data, int64_t size) noexcept nogil


# as kbr_codec.protocols.Partitioner
cdef enum route_kind:
    ROUTE_ORIGINAL = 0
    ROUTE_MURMUR2 = 1
    ROUTE_CONSISTENT = 2
    ROUTE_ROUND_ROBIN = 3


cdef inline int32_t route_of(
    int kind, uint32_t count, const uint8_t *key, int64_t key_size, int64_t position,
) noexcept nogil:
    """A partition below ``count``. A key_size of -1 is no key; ``position`` is not negative."""
    if kind == ROUTE_ROUND_ROBIN or key_size < 0:
        return <int32_t>(<uint64_t>position % count)
    if kind == ROUTE_MURMUR2:
        return <int32_t>((murmur2(key, key_size) & <uint32_t>0x7FFFFFFF) % count)
    return <int32_t>(crc32(key, key_size) % count)
