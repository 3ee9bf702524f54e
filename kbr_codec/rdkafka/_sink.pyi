from collections.abc import Callable, Iterable
from typing import final

from .._block import RawBlock
from ._events import ClientEvent, Delivered, Sent, SinkFailure

__all__ = ["Sink"]

@final
class Sink:
    zero_timestamps: int
    def __init__(
        self,
        properties: Iterable[tuple[str, str]],
        *,
        zero_timestamp_as: int = 0,
        token_source: Callable[[], tuple[str, int, str]] | None = None,
    ) -> None: ...
    def connect(self, timeout_ms: int) -> bool: ...
    def open_topic(self, topic: str) -> int: ...
    def produce(
        self,
        topic: int,
        partition: int,
        block: bytes | bytearray | memoryview | RawBlock,
        *,
        offset_from: int,
        offset_to_exclusive: int,
        timestamp_from: int,
        timestamp_to: int,
        original_offset_header: bytes = b"",
        max_records: int = -1,
        max_bytes: int = -1,
        partitioner: int = 0,
        partition_count: int = 0,
        position: int = 0,
    ) -> Sent: ...
    def resume(self, number: int, *, max_records: int = -1, max_bytes: int = -1) -> Sent: ...
    def abandon(self, number: int) -> bool: ...
    def poll(self, timeout_ms: int) -> list[Delivered]: ...
    def failure(self) -> SinkFailure | None: ...
    @property
    def open_count(self) -> int: ...
    @property
    def acknowledged_total(self) -> int: ...
    @property
    def waited_s(self) -> float: ...
    def client_events(self) -> list[ClientEvent]: ...
    def close(self) -> None: ...
