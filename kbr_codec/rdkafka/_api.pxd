# cython: language_level=3
"""librdkafka's public C API as far as kbr drives it, resolved once into one table.

Types and signatures: rdkafka.h and rdkafka_mock.h of librdkafka 2.10 and newer. Only documented
structures are laid out here (rd_kafka_message_t, rd_kafka_vu_t, rd_kafka_metadata_t); the others stay opaque.
"""

from libc.stdint cimport int16_t, int32_t, int64_t
from libc.stdio cimport FILE
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec


cdef inline int64_t monotonic_ms() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return <int64_t>t.tv_sec * 1000 + t.tv_nsec // 1000000


cdef extern from *:
    """
    #include <stdint.h>
    #include <stddef.h>
    #include <sys/types.h>
    typedef struct {
        int err; void *rkt; int32_t partition; void *payload; size_t len; void *key; size_t key_len;
        int64_t offset; void *_private;
    } kbr_rdk_message;
    typedef struct {
        int vtype;
        union {
            const char *cstr; void *rkt; int i; int32_t i32; int64_t i64;
            struct { void *ptr; size_t size; } mem;
            void *headers; void *ptr; char _pad[64];
        } u;
    } kbr_rdk_vu;
    typedef struct {
        int broker_cnt; void *brokers; int topic_cnt; void *topics; int32_t orig_broker_id; char *orig_broker_name;
    } kbr_rdk_metadata;
    static inline void kbr_vu_ptr(kbr_rdk_vu *v, int t, void *p) { v->vtype = t; v->u.ptr = p; }
    static inline void kbr_vu_i32(kbr_rdk_vu *v, int t, int32_t i) { v->vtype = t; v->u.i32 = i; }
    static inline void kbr_vu_i64(kbr_rdk_vu *v, int t, int64_t i) { v->vtype = t; v->u.i64 = i; }
    static inline void kbr_vu_mem(kbr_rdk_vu *v, int t, const void *p, size_t n) {
        v->vtype = t; v->u.mem.ptr = (void *)p; v->u.mem.size = n;
    }
    """
    ctypedef struct message "kbr_rdk_message":
        int err
        void *rkt
        int32_t partition
        void *payload
        size_t len
        void *key
        size_t key_len
        int64_t offset
        void *_private
    ctypedef struct vu "kbr_rdk_vu":
        pass
    ctypedef struct metadata_answer "kbr_rdk_metadata":
        int32_t orig_broker_id
    void vu_ptr "kbr_vu_ptr"(vu *v, int vtype, void *p) noexcept nogil
    void vu_i32 "kbr_vu_i32"(vu *v, int vtype, int32_t i) noexcept nogil
    void vu_i64 "kbr_vu_i64"(vu *v, int vtype, int64_t i) noexcept nogil
    void vu_mem "kbr_vu_mem"(vu *v, int vtype, const void *p, size_t n) noexcept nogil


cdef enum:
    TYPE_PRODUCER = 0
    TYPE_CONSUMER = 1
    CONF_OK = 0
    CONF_UNKNOWN = -2
    # rd_kafka_resp_err_t
    ERR_BAD_MSG = -199
    ERR_PARTITION_EOF = -191
    ERR_QUEUE_FULL = -184
    ERR_GAPLESS_GUARANTEE = -148
    ERR_INVALID_DIFFERENT_RECORD = -138
    # events (rd_kafka_event_type_t)
    EVENT_DR = 0x1
    EVENT_LOG = 0x4
    EVENT_ERROR = 0x8
    EVENT_STATS = 0x40
    # rd_kafka_vtype_t
    VTYPE_RKT = 2
    VTYPE_PARTITION = 3
    VTYPE_VALUE = 4
    VTYPE_KEY = 5
    VTYPE_OPAQUE = 6
    VTYPE_TIMESTAMP = 8
    VTYPE_HEADERS = 10
    PURGE_QUEUE = 1
    PURGE_INFLIGHT = 2


# makes a socket as socket(2) does: domain, type, protocol, the client's opaque pointer
ctypedef int (*socket_maker)(int domain, int kind, int protocol, void *opaque) noexcept nogil
# asks for a new token: the client, sasl.oauthbearer.config, the client's opaque pointer
ctypedef void (*token_refresher)(void *rk, const char *config, void *opaque) noexcept nogil


ctypedef struct rdkafka_table:
    int loaded
    # version, errors
    int (*version)() noexcept nogil
    const char *(*version_str)() noexcept nogil
    const char *(*err2str)(int err) noexcept nogil
    int (*last_error)() noexcept nogil
    int (*error_code)(const void *error) noexcept nogil
    const char *(*error_string)(const void *error) noexcept nogil
    void (*error_destroy)(void *error) noexcept nogil
    int (*fatal_error)(void *rk, char *errstr, size_t size) noexcept nogil
    # configuration and handles
    void *(*conf_new)() noexcept nogil
    int (*conf_set)(void *conf, const char *name, const char *value, char *errstr, size_t size) noexcept nogil
    void (*conf_set_events)(void *conf, int events) noexcept nogil
    void (*conf_set_socket_cb)(void *conf, socket_maker make) noexcept nogil
    void (*conf_set_opaque)(void *conf, void *opaque) noexcept nogil
    void (*conf_set_token_refresh_cb)(void *conf, token_refresher refresh) noexcept nogil
    void (*conf_enable_sasl_queue)(void *conf, int enable) noexcept nogil
    int (*conf_get)(const void *conf, const char *name, char *value, size_t *size) noexcept nogil
    void (*conf_properties_show)(FILE *file) noexcept nogil
    void (*conf_destroy)(void *conf) noexcept nogil
    void *(*handle_new)(int type, void *conf, char *errstr, size_t size) noexcept nogil
    void (*destroy_flags)(void *rk, int flags) noexcept nogil
    int (*set_log_queue)(void *rk, void *rkqu) noexcept nogil
    void *(*default_topic_conf_dup)(void *rk) noexcept nogil
    void (*topic_conf_set_opaque)(void *conf, void *opaque) noexcept nogil
    void *(*topic_new)(void *rk, const char *topic, void *conf) noexcept nogil
    void (*topic_destroy)(void *rkt) noexcept nogil
    void *(*topic_opaque)(const void *rkt) noexcept nogil
    # tokens (SASL/OAUTHBEARER)
    void *(*sasl_background_callbacks_enable)(void *rk) noexcept nogil
    int (*set_token)(
        void *rk, const char *token, int64_t expires_at_ms, const char *principal, const char **extensions,
        size_t extension_size, char *errstr, size_t size) noexcept nogil
    int (*set_token_failure)(void *rk, const char *reason) noexcept nogil
    # queues and events
    void *(*queue_new)(void *rk) noexcept nogil
    void *(*queue_get_main)(void *rk) noexcept nogil
    void (*queue_destroy)(void *rkqu) noexcept nogil
    void *(*queue_poll)(void *rkqu, int timeout_ms) noexcept nogil
    int (*event_type)(const void *event) noexcept nogil
    void (*event_destroy)(void *event) noexcept nogil
    int (*event_error)(void *event) noexcept nogil
    const char *(*event_error_string)(void *event) noexcept nogil
    int (*event_error_is_fatal)(void *event) noexcept nogil
    int (*event_log)(void *event, const char **fac, const char **text, int *level) noexcept nogil
    const char *(*event_stats)(void *event) noexcept nogil
    size_t (*event_message_array)(void *event, const message **messages, size_t size) noexcept nogil
    # consuming
    int (*consume_start_queue)(void *rkt, int32_t partition, int64_t offset, void *rkqu) noexcept nogil
    int (*consume_stop)(void *rkt, int32_t partition) noexcept nogil
    message *(*consume_queue)(void *rkqu, int timeout_ms) noexcept nogil
    ssize_t (*consume_batch_queue)(void *rkqu, int timeout_ms, message **messages, size_t size) noexcept nogil
    void (*message_destroy)(message *m) noexcept nogil
    int64_t (*message_timestamp)(const message *m, int *tstype) noexcept nogil
    int32_t (*message_leader_epoch)(const message *m) noexcept nogil
    int (*message_headers)(const message *m, void **hdrs) noexcept nogil
    int (*header_get_all)(
        const void *hdrs, size_t idx, const char **name, const void **value, size_t *size) noexcept nogil
    size_t (*header_cnt)(const void *hdrs) noexcept nogil
    # producing
    void *(*produceva)(void *rk, const vu *vus, size_t count) noexcept nogil
    void *(*headers_new)(size_t initial_count) noexcept nogil
    void (*headers_destroy)(void *hdrs) noexcept nogil
    int (*header_add)(
        void *hdrs, const char *name, ssize_t name_size, const void *value, ssize_t value_size) noexcept nogil
    int (*outq_len)(void *rk) noexcept nogil
    int (*metadata)(
        void *rk, int all_topics, void *only_rkt, const metadata_answer **found, int timeout_ms) noexcept nogil
    void (*metadata_destroy)(const metadata_answer *found) noexcept nogil
    int (*purge)(void *rk, int flags) noexcept nogil
    # the mock cluster
    void *(*mock_cluster_new)(void *rk, int broker_count) noexcept nogil
    void (*mock_cluster_destroy)(void *cluster) noexcept nogil
    const char *(*mock_cluster_bootstraps)(const void *cluster) noexcept nogil
    void (*mock_push_request_errors)(
        void *cluster, int16_t api_key, size_t count, const int *codes) noexcept nogil
    int (*mock_topic_create)(void *cluster, const char *topic, int partitions, int replication_factor) noexcept nogil


cdef rdkafka_table rd

cdef int require_loaded() except -1
cdef void *new_handle(
    int type, object properties, int events, object token_source, socket_maker make_socket=*) except NULL
cdef object take_events(void *rkqu)
