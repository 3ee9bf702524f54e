# cython: language_level=3
"""MockCluster: librdkafka's own broker for tests and the demo (rdkafka_mock.h), reachable by other processes.

It keeps about 5 MB a partition and drops the oldest beyond that; it has no CreateTopics, so topics
are made here.
"""

from ._api cimport TYPE_PRODUCER, new_handle, rd, require_loaded

__all__ = ["MockCluster"]


cdef class MockCluster:
    """Brokers on loopback, with ports of their own choice.

    Args:
        brokers: how many.
    """

    cdef void *rk
    cdef void *cluster

    def __cinit__(self):
        self.rk = NULL
        self.cluster = NULL

    def __init__(self, *, brokers: int = 1):
        if self.rk != NULL:
            raise RuntimeError("a cluster is made once")
        require_loaded()
        if not 1 <= brokers <= 64:
            raise ValueError("between 1 and 64 brokers")
        self.rk = new_handle(TYPE_PRODUCER, [("log_level", "0")], 0, None)
        self.cluster = rd.mock_cluster_new(self.rk, brokers)
        if self.cluster == NULL:
            raise RuntimeError("librdkafka could not start its mock cluster")

    def __dealloc__(self):
        self.release()

    # noexcept as __dealloc__ calls it, which has nobody to raise to; it frees, and nothing in it can fail
    cdef void release(self) noexcept:
        if self.cluster != NULL:
            with nogil:
                rd.mock_cluster_destroy(self.cluster)
            self.cluster = NULL
        if self.rk != NULL:
            with nogil:
                rd.destroy_flags(self.rk, 0)
            self.rk = NULL

    def close(self):
        """Stop the brokers; again is fine."""
        self.release()

    @property
    def bootstrap_servers(self) -> str:
        """host:port, comma-separated."""
        if self.cluster == NULL:
            raise RuntimeError("the cluster is closed")
        return rd.mock_cluster_bootstraps(self.cluster).decode()

    def create_topic(self, name: str, *, partitions: int, replication_factor: int = 1):
        """Make a topic.

        Raises:
            ValueError: librdkafka refused it (it exists, or the counts are wrong).
        """
        if self.cluster == NULL:
            raise RuntimeError("the cluster is closed")
        code = rd.mock_topic_create(self.cluster, name.encode(), partitions, replication_factor)
        if code:
            raise ValueError(f"the mock cluster refused topic {name!r}: {rd.err2str(code).decode()}")

    def refuse(self, api_key: int, code: int):
        """Answer the next request of a kind (Kafka's protocol guide) with an error (rd_kafka_resp_err_t)."""
        cdef int answer = code
        if self.cluster == NULL:
            raise RuntimeError("the cluster is closed")
        rd.mock_push_request_errors(self.cluster, api_key, 1, &answer)
