from array import array

__all__ = ["count_routes", "partition_of", "route_ranges"]

def partition_of(key: bytes | None, *, partitioner: int, count: int, position: int) -> int: ...
def route_ranges(
    data: bytes | bytearray | memoryview,
    *,
    partitioner: int,
    count: int,
    position: int,
    timestamp_from: int,
    timestamp_to: int,
) -> tuple[bytes, bytes, bytes]: ...
def count_routes(
    data: bytes | bytearray | memoryview,
    counts: array[int],
    *,
    partitioner: int,
    count: int,
    position: int,
    timestamp_from: int,
    timestamp_to: int,
) -> int: ...
