"""librdkafka's C API, driven without the GIL: partitions to blocks (Source), blocks to partitions (Sink).

``load()`` comes first, with the path of the extension module that has brought librdkafka into the
process (``confluent_kafka.cimpl.__file__``). Clients' log lines and errors are handed out, never printed.
"""

from ._api import (
    MINIMUM_VERSION,
    ClientConfigError,
    LibraryError,
    builtin_features,
    has_property,
    known_properties,
    library_version,
    load,
)
from ._events import (
    ERR_HEADER_NUL,
    ERR_LOG_REPLACED,
    ERR_NO_MEMORY,
    ERR_OFFSETS_FELL,
    ERR_QUEUE_TOO_SMALL,
    ERR_RECORD_TOO_LARGE,
    ERR_TIMESTAMP_ZERO,
    BlockReady,
    ClientEvent,
    Delivered,
    PartitionEnd,
    Property,
    Sent,
    SinkFailure,
    SourceError,
)
from ._mock import MockCluster
from ._sink import Sink
from ._source import Source

__all__ = [
    "ERR_HEADER_NUL",
    "ERR_LOG_REPLACED",
    "ERR_NO_MEMORY",
    "ERR_OFFSETS_FELL",
    "ERR_QUEUE_TOO_SMALL",
    "ERR_RECORD_TOO_LARGE",
    "ERR_TIMESTAMP_ZERO",
    "MINIMUM_VERSION",
    "BlockReady",
    "ClientConfigError",
    "ClientEvent",
    "Delivered",
    "LibraryError",
    "MockCluster",
    "PartitionEnd",
    "Property",
    "Sent",
    "Sink",
    "SinkFailure",
    "Source",
    "SourceError",
    "builtin_features",
    "has_property",
    "known_properties",
    "library_version",
    "load",
]
