"""Records as Arrow tables: built from what the codec decoded, in memory. pyarrow reads no foreign byte here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa

from kbr.model import Record, TimestampType, TopicPartition

__all__ = ["RECORD_SCHEMA", "record_batch", "record_table"]

_TYPE_NAMES = {
    TimestampType.NONE: None,
    TimestampType.CREATE_TIME: "CreateTime",
    TimestampType.LOG_APPEND_TIME: "LogAppendTime",
}
_HEADER = pa.struct([pa.field("name", pa.binary(), nullable=False), pa.field("value", pa.binary())])

#: A row for each record. ``timestamp`` and ``timestamp_type`` are null where a record has no timestamp. Keys, values and
#: headers are the bytes that they were; null is Kafka's null, which is not the same as empty.
RECORD_SCHEMA = pa.schema(
    [
        pa.field("topic", pa.string(), nullable=False),
        pa.field("partition", pa.int32(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("timestamp", pa.timestamp("ms", tz="UTC")),
        pa.field("timestamp_type", pa.string()),
        pa.field("key", pa.large_binary()),
        pa.field("value", pa.large_binary()),
        pa.field("headers", pa.list_(pa.field("item", _HEADER, nullable=False)), nullable=False),
    ]
)


def record_batch(place: TopicPartition, records: Sequence[Record]) -> Any:
    """Records of one partition as a ``pyarrow.RecordBatch`` of `RECORD_SCHEMA`."""
    names = [_TYPE_NAMES[TimestampType(one.timestamp_type)] for one in records]
    columns = [
        pa.array([place.topic] * len(records), pa.string()),
        pa.array([place.partition] * len(records), pa.int32()),
        pa.array([one.offset for one in records], pa.int64()),
        pa.array(
            [None if name is None else one.timestamp for one, name in zip(records, names, strict=True)],
            pa.timestamp("ms", tz="UTC"),
        ),
        pa.array(names, pa.string()),
        pa.array([one.key for one in records], pa.large_binary()),
        pa.array([one.value for one in records], pa.large_binary()),
        pa.array(
            [[{"name": name, "value": value} for name, value in one.headers] for one in records],
            RECORD_SCHEMA.field("headers").type,
        ),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=RECORD_SCHEMA)


def record_table(batches: Iterable[Any]) -> Any:
    """Batches as one ``pyarrow.Table``, which has them all in memory; of none, an empty one."""
    return pa.Table.from_batches(batches, schema=RECORD_SCHEMA)
