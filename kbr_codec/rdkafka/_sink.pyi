from collections.abc import Iterable
from typing import final

from .._block import RawBlock
from ._events import ClientEvent, Delivered, SinkFailure

__all__ = ["Sink"]

@final
class Sink:
    zero_timestamps: int
    def __init__(self, properties: Iterable[tuple[str, str]], *, zero_timestamp_as: int = 0) -> None: ...
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
    ) -> tuple[int, int]: ...
    def poll(self, timeout_ms: int) -> list[Delivered]: ...
    def failure(self) -> SinkFailure | None: ...
    @property
    def open_count(self) -> int: ...
    @property
    def acknowledged_total(self) -> int: ...
    def client_events(self) -> list[ClientEvent]: ...
    def close(self) -> None: ...
