# cython: language_level=3
"""Resolves librdkafka's public C API from a library that the process has already loaded.

The library is the one that confluent-kafka brought: dlsym on its extension module also searches
what that module links to, so a bundled and a system librdkafka are found alike, and both sides
of the process use the same copy. No private structure is touched.
"""

from libc.stdint cimport int64_t
from libc.stdio cimport FILE, fclose
from libc.stdlib cimport free
from posix.dlfcn cimport RTLD_NOW, dlerror, dlopen, dlsym

from ._events import Property

__all__ = [
    "ClientConfigError", "LibraryError", "MINIMUM_VERSION", "builtin_features", "has_property", "known_properties",
    "library_version", "load",
]


cdef extern from "<stdio.h>":
    FILE *open_memstream(char **text, size_t *size) noexcept nogil

# rd_kafka_query of 2.10: the oldest release whose API and behaviour are tested here.
MINIMUM_VERSION = 0x020A0000


class LibraryError(RuntimeError):
    """librdkafka can't be used: not found, a function is missing, or too old."""


class ClientConfigError(ValueError):
    """librdkafka refused a property.

    Args:
        name: the property, or an empty string when the client as a whole was refused.
        reason: librdkafka's words.
    """

    def __init__(self, name, reason):
        super().__init__(name, reason)
        self.name = name
        self.reason = reason

    def __str__(self):
        return f"{self.name}: {self.reason}" if self.name else self.reason


cdef int resolve(void *library, const char *name, void **slot) except -1:
    slot[0] = dlsym(library, name)
    if slot[0] == NULL:
        raise LibraryError(f"librdkafka has no function {name.decode('ascii')}: it is older than 2.10, or cut down")
    return 0


def load(path: str) -> str:
    """Resolve librdkafka through the loaded shared object at ``path``; again is a no-op.

    Args:
        path: confluent_kafka.cimpl.__file__, or a librdkafka library itself.

    Returns:
        librdkafka's version, as text.

    Raises:
        LibraryError: no library there, a function missing, or a version below 2.10.
    """
    cdef void *library
    encoded = path.encode()
    if rd.loaded:
        return library_version()
    library = dlopen(encoded, RTLD_NOW)
    if library == NULL:
        raise LibraryError(f"can't open {path}: {dlerror().decode(errors='replace')}")
    resolve(library, b"rd_kafka_version", <void **>&rd.version)
    resolve(library, b"rd_kafka_version_str", <void **>&rd.version_str)
    if rd.version() < <int>MINIMUM_VERSION:
        raise LibraryError(f"librdkafka {rd.version_str().decode()} is too old: 2.10 or newer is needed")
    resolve(library, b"rd_kafka_err2str", <void **>&rd.err2str)
    resolve(library, b"rd_kafka_last_error", <void **>&rd.last_error)
    resolve(library, b"rd_kafka_error_code", <void **>&rd.error_code)
    resolve(library, b"rd_kafka_error_string", <void **>&rd.error_string)
    resolve(library, b"rd_kafka_error_destroy", <void **>&rd.error_destroy)
    resolve(library, b"rd_kafka_fatal_error", <void **>&rd.fatal_error)
    resolve(library, b"rd_kafka_conf_new", <void **>&rd.conf_new)
    resolve(library, b"rd_kafka_conf_set", <void **>&rd.conf_set)
    resolve(library, b"rd_kafka_conf_set_events", <void **>&rd.conf_set_events)
    resolve(library, b"rd_kafka_conf_set_socket_cb", <void **>&rd.conf_set_socket_cb)
    resolve(library, b"rd_kafka_conf_set_opaque", <void **>&rd.conf_set_opaque)
    resolve(
        library, b"rd_kafka_conf_set_oauthbearer_token_refresh_cb", <void **>&rd.conf_set_token_refresh_cb)
    resolve(library, b"rd_kafka_conf_enable_sasl_queue", <void **>&rd.conf_enable_sasl_queue)
    resolve(library, b"rd_kafka_conf_get", <void **>&rd.conf_get)
    resolve(library, b"rd_kafka_conf_properties_show", <void **>&rd.conf_properties_show)
    resolve(library, b"rd_kafka_conf_destroy", <void **>&rd.conf_destroy)
    resolve(library, b"rd_kafka_new", <void **>&rd.handle_new)
    resolve(library, b"rd_kafka_destroy_flags", <void **>&rd.destroy_flags)
    resolve(library, b"rd_kafka_set_log_queue", <void **>&rd.set_log_queue)
    resolve(library, b"rd_kafka_default_topic_conf_dup", <void **>&rd.default_topic_conf_dup)
    resolve(library, b"rd_kafka_topic_conf_set_opaque", <void **>&rd.topic_conf_set_opaque)
    resolve(library, b"rd_kafka_topic_new", <void **>&rd.topic_new)
    resolve(library, b"rd_kafka_topic_destroy", <void **>&rd.topic_destroy)
    resolve(library, b"rd_kafka_topic_opaque", <void **>&rd.topic_opaque)
    resolve(
        library, b"rd_kafka_sasl_background_callbacks_enable", <void **>&rd.sasl_background_callbacks_enable)
    resolve(library, b"rd_kafka_oauthbearer_set_token", <void **>&rd.set_token)
    resolve(library, b"rd_kafka_oauthbearer_set_token_failure", <void **>&rd.set_token_failure)
    resolve(library, b"rd_kafka_queue_new", <void **>&rd.queue_new)
    resolve(library, b"rd_kafka_queue_get_main", <void **>&rd.queue_get_main)
    resolve(library, b"rd_kafka_queue_destroy", <void **>&rd.queue_destroy)
    resolve(library, b"rd_kafka_queue_poll", <void **>&rd.queue_poll)
    resolve(library, b"rd_kafka_event_type", <void **>&rd.event_type)
    resolve(library, b"rd_kafka_event_destroy", <void **>&rd.event_destroy)
    resolve(library, b"rd_kafka_event_error", <void **>&rd.event_error)
    resolve(library, b"rd_kafka_event_error_string", <void **>&rd.event_error_string)
    resolve(library, b"rd_kafka_event_error_is_fatal", <void **>&rd.event_error_is_fatal)
    resolve(library, b"rd_kafka_event_log", <void **>&rd.event_log)
    resolve(library, b"rd_kafka_event_stats", <void **>&rd.event_stats)
    resolve(library, b"rd_kafka_event_message_array", <void **>&rd.event_message_array)
    resolve(library, b"rd_kafka_consume_start_queue", <void **>&rd.consume_start_queue)
    resolve(library, b"rd_kafka_consume_stop", <void **>&rd.consume_stop)
    resolve(library, b"rd_kafka_consume_queue", <void **>&rd.consume_queue)
    resolve(library, b"rd_kafka_consume_batch_queue", <void **>&rd.consume_batch_queue)
    resolve(library, b"rd_kafka_message_destroy", <void **>&rd.message_destroy)
    resolve(library, b"rd_kafka_message_timestamp", <void **>&rd.message_timestamp)
    resolve(library, b"rd_kafka_message_leader_epoch", <void **>&rd.message_leader_epoch)
    resolve(library, b"rd_kafka_message_headers", <void **>&rd.message_headers)
    resolve(library, b"rd_kafka_header_get_all", <void **>&rd.header_get_all)
    resolve(library, b"rd_kafka_header_cnt", <void **>&rd.header_cnt)
    resolve(library, b"rd_kafka_produceva", <void **>&rd.produceva)
    resolve(library, b"rd_kafka_headers_new", <void **>&rd.headers_new)
    resolve(library, b"rd_kafka_headers_destroy", <void **>&rd.headers_destroy)
    resolve(library, b"rd_kafka_header_add", <void **>&rd.header_add)
    resolve(library, b"rd_kafka_outq_len", <void **>&rd.outq_len)
    resolve(library, b"rd_kafka_metadata", <void **>&rd.metadata)
    resolve(library, b"rd_kafka_metadata_destroy", <void **>&rd.metadata_destroy)
    resolve(library, b"rd_kafka_purge", <void **>&rd.purge)
    resolve(library, b"rd_kafka_mock_cluster_new", <void **>&rd.mock_cluster_new)
    resolve(library, b"rd_kafka_mock_cluster_destroy", <void **>&rd.mock_cluster_destroy)
    resolve(library, b"rd_kafka_mock_cluster_bootstraps", <void **>&rd.mock_cluster_bootstraps)
    resolve(library, b"rd_kafka_mock_push_request_errors_array", <void **>&rd.mock_push_request_errors)
    resolve(library, b"rd_kafka_mock_topic_create", <void **>&rd.mock_topic_create)
    rd.loaded = 1
    return library_version()


def library_version() -> str:
    """librdkafka's version as text; empty before load()."""
    return rd.version_str().decode() if rd.loaded else ""


cdef int require_loaded() except -1:
    if not rd.loaded:
        raise LibraryError("librdkafka is not loaded: call kbr_codec.rdkafka.load() first")
    return 0


def builtin_features() -> frozenset:
    """What this librdkafka was built with: ``ssl``, ``sasl_scram``, ``sasl_gssapi``, ``oidc``, ..."""
    cdef char text[1024]
    cdef size_t size = sizeof(text)
    require_loaded()
    conf = rd.conf_new()
    try:
        if rd.conf_get(conf, b"builtin.features", text, &size) != CONF_OK:
            raise LibraryError("librdkafka does not tell its builtin.features")
        return frozenset(one.strip() for one in (<bytes>text).decode(errors="replace").split(",") if one.strip())
    finally:
        rd.conf_destroy(conf)


def known_properties() -> dict:
    """Every property that this librdkafka has, topic properties included, by name.

    Read from the table that it prints for people (rd_kafka_conf_properties_show): ``name | C/P | range | ...``.
    """
    cdef char *text = NULL
    cdef size_t size = 0
    cdef FILE *file
    require_loaded()
    file = open_memstream(&text, &size)
    if file == NULL:
        raise MemoryError
    try:
        rd.conf_properties_show(file)
    finally:
        fclose(file)
    try:
        lines = text[:size].decode(errors="replace").splitlines()
    finally:
        free(text)
    found = {}
    for line in lines:
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) < 6 or not cells[0] or cells[0] == "Property" or cells[0].startswith("--"):
            continue
        found[cells[0]] = Property(clients=cells[1], is_settable="see dedicated API" not in line)
    return found


def has_property(name: str) -> bool:
    """Whether a client-wide property has that name: also one that known_properties() lacks, as it is for tests."""
    cdef size_t size = 0
    require_loaded()
    if "\0" in name:
        return False
    conf = rd.conf_new()
    try:
        return rd.conf_get(conf, name.encode(), NULL, &size) != CONF_UNKNOWN
    finally:
        rd.conf_destroy(conf)


cdef void refresh_token(void *rk, const char *config, void *opaque) noexcept with gil:
    """librdkafka wants a token; called by its background thread, at 80 % of the last one's life."""
    cdef char text[512]
    try:
        value, expires_at_ms, principal = (<object>opaque)()
        token = value.encode()
        name = principal.encode()
        if rd.set_token(rk, token, <int64_t>expires_at_ms, name, NULL, 0, text, sizeof(text)) != 0:
            rd.set_token_failure(rk, text)
    except BaseException as error:  # there is no caller: librdkafka tells it as an error of the client, and asks again
        reason = " ".join(str(error).split()).encode(errors="replace") or type(error).__name__.encode()
        rd.set_token_failure(rk, reason)


cdef void *new_handle(
        int type, object properties, int events, object token_source, socket_maker make_socket=NULL) except NULL:
    """A client of ``properties`` (pairs of str) whose logs and errors come as events on its main queue.

    Args:
        token_source: a callable that gives (token, when it expires as ms since the epoch, principal), for OAUTHBEARER;
            None for none. It is called by a thread of librdkafka as long as the client lives, and so must be kept.
        make_socket: makes its sockets; NULL is librdkafka's own way.
    """
    cdef char text[512]
    cdef void *conf
    cdef void *handle
    cdef void *error
    require_loaded()
    conf = rd.conf_new()
    try:
        for name, value in [*properties, ("log.queue", "true")]:
            if "\0" in name or "\0" in value:
                raise ClientConfigError(name.replace("\0", ""), "a NUL byte in a client property")
            if rd.conf_set(conf, name.encode(), value.encode(), text, sizeof(text)) != CONF_OK:
                raise ClientConfigError(name, text.decode(errors="replace"))
        rd.conf_set_events(conf, events | EVENT_LOG | EVENT_ERROR)
        if make_socket != NULL:
            rd.conf_set_socket_cb(conf, make_socket)
        if token_source is not None:
            rd.conf_set_opaque(conf, <void *>token_source)
            rd.conf_set_token_refresh_cb(conf, <token_refresher>refresh_token)
            # a queue of its own, which a thread of librdkafka serves: a worker that waits for its store polls nothing
            rd.conf_enable_sasl_queue(conf, 1)
        handle = rd.handle_new(type, conf, text, sizeof(text))
        if handle == NULL:
            raise ClientConfigError("", text.decode(errors="replace"))
    except BaseException:
        rd.conf_destroy(conf)
        raise
    rd.set_log_queue(handle, NULL)
    if token_source is not None:
        error = rd.sasl_background_callbacks_enable(handle)
        if error != NULL:
            reason = rd.error_string(error).decode(errors="replace")
            rd.error_destroy(error)
            with nogil:
                rd.destroy_flags(handle, 0)
            raise ClientConfigError("", reason)
    return handle


cdef object take_events(void *rkqu):
    """Logs, errors and statistics that wait on a client's main queue: (level, facility, text, code, fatal) each.

    ``level`` is syslog's, 3 for errors; ``code`` is 0 for a log line. Statistics (a JSON text, STATISTICS.md of
    librdkafka) have the facility STATS and level 7.
    """
    cdef void *event
    cdef const char *facility
    cdef const char *text
    cdef int level
    cdef int kind
    found = []
    while len(found) < 1000:
        event = rd.queue_poll(rkqu, 0)
        if event == NULL:
            break
        kind = rd.event_type(event)
        if kind == EVENT_LOG:
            if rd.event_log(event, &facility, &text, &level) == 0:
                found.append((level, facility.decode(errors="replace"), text.decode(errors="replace"), 0, False))
        elif kind == EVENT_ERROR:
            found.append((
                3, "ERROR", rd.event_error_string(event).decode(errors="replace"), rd.event_error(event),
                bool(rd.event_error_is_fatal(event)),
            ))
        elif kind == EVENT_STATS:
            found.append((7, "STATS", rd.event_stats(event).decode(errors="replace"), 0, False))
        rd.event_destroy(event)
    return found
