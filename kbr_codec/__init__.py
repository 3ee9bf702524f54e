"""kbr's codec: Kafka records to msgpack blocks and back, in Cython, without the GIL.

Stands alone: never imports kbr. ``kbr_codec.pure`` says the same in plain Python and is used only
when asked for by name; ``kbr_codec.rdkafka`` drives librdkafka's C API on top of the same encoder.
"""

from ._block import RawBlock, decode_block, encode_block, offset_ranges, scan_block
from ._route import count_routes, partition_of, route_ranges
from .errors import CodecError, Corrupt, Truncated
from .protocols import BlockCodec, BlockStats, Partitioner, Record, Router

__all__ = [
    "BlockCodec",
    "BlockStats",
    "CodecError",
    "Corrupt",
    "Partitioner",
    "RawBlock",
    "Record",
    "Router",
    "Truncated",
    "count_routes",
    "decode_block",
    "encode_block",
    "offset_ranges",
    "partition_of",
    "route_ranges",
    "scan_block",
]
