"""A network that can be made bad: TCP ports of 127.0.0.1 passed on to others, with faults while it runs.

Standard library only; knows nothing of what goes through. Faults are for one direction or both, set by hand, by time
(after_s) or at an exact byte (when_passed, cut_after); what passed and what was lost is counted, so that a test can wait
until a fault has bitten. The same seed gives the same stalls.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import threading
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from types import TracebackType
from typing import Any

__all__ = ["BOTH", "TO_CLIENT", "TO_SERVER", "Direction", "FaultProxy"]

#: What is read at once, bytes.
CHUNK_BYTES = 16 * 1024
#: How many of those may be on their way in one direction of a connection.
CHUNKS_ON_THE_WAY = 64
#: Before something happens at a byte: a reset takes with it what the other side has not read yet.
READING_S = 0.01
#: With it a close is a reset.
_NO_LINGER = struct.pack("ii", 1, 0)


class Direction(Enum):
    """Where bytes go."""

    TO_SERVER = "to the server"
    TO_CLIENT = "to the client"


TO_SERVER = Direction.TO_SERVER
TO_CLIENT = Direction.TO_CLIENT
BOTH = (TO_SERVER, TO_CLIENT)


@dataclass
class _Lane:
    """One direction of all connections: its faults and its counts."""

    direction: Direction
    open: asyncio.Event
    latency_s: float = 0.0
    bytes_per_s: float = 0.0
    stall_chance: float = 0.0
    stall_s: float = 0.0
    swallowing: bool = False
    #: When the bandwidth has room again, by the loop's clock.
    free_at: float = 0.0
    passed: int = 0
    swallowed: int = 0
    #: (passed, what to do then with the connection that carried the byte), the next one first.
    marks: list[tuple[int, Callable[[_Link], None]]] = field(default_factory=list)

    def piece(self, data: bytes) -> int:
        """How much of ``data`` may go before something has to happen."""
        size = len(data)
        if self.bytes_per_s:
            size = min(size, max(1, int(self.bytes_per_s / 20)))
        if self.marks:
            size = min(size, max(1, self.marks[0][0] - self.passed))
        return size


class _Link:
    """One connection: two sockets."""

    def __init__(self, number: int, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.number = number
        self._ends = (client, server)
        self.is_cut = False
        #: Directions in which bytes were lost: nothing can follow them.
        self.mute: set[Direction] = set()

    def cut(self) -> None:
        """A reset, both ways; what is on its way is lost."""
        self.is_cut = True
        for end in self._ends:
            _reset(end)

    def close(self) -> None:
        for end in self._ends:
            end.close()


def _reset(end: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        end.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    end.transport.abort()


class FaultProxy:
    """Ports of 127.0.0.1, each passed on to another. A context manager; its methods may be called from any thread.

    Args:
        routes: listening port to the port behind it.
        seed: of the random stalls.
    """

    def __init__(self, routes: Mapping[int, int], *, seed: int = 1) -> None:
        self._routes = dict(routes)
        self._seed = seed
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)
        self._lanes = {one: _Lane(one, asyncio.Event()) for one in Direction}
        self._listeners: dict[socket.socket, asyncio.Task[None]] = {}
        self._links: dict[_Link, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        #: Connections that came, and those that were reset by us, ever.
        self.accepted = 0
        self.cuts = 0

    def __enter__(self) -> FaultProxy:
        self._thread.start()
        for lane in self._lanes.values():
            self._call(lane.open.set)
        self.accept()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    # -- what goes wrong ------------------------------------------------------------------

    def slow(self, *directions: Direction, latency_s: float = 0.0, bytes_per_s: float = 0.0) -> None:
        """Delay bytes, and let only so many pass, all connections together (0: no limit)."""

        def change() -> None:
            for one in directions or BOTH:
                self._lanes[one].latency_s = latency_s
                self._lanes[one].bytes_per_s = bytes_per_s

        self._call(change)

    def stall(self, *directions: Direction, chance: float, seconds: float) -> None:
        """Let each piece (16 KiB at most) wait by chance, as a lost packet does until it is sent again."""

        def change() -> None:
            for one in directions or BOTH:
                self._lanes[one].stall_chance, self._lanes[one].stall_s = chance, seconds

        self._call(change)

    def hold(self, *directions: Direction) -> None:
        """Let nothing pass; it passes later, as after an outage that TCP survives."""
        self._call(lambda: [self._lanes[one].open.clear() for one in directions or BOTH])

    def swallow(self, *directions: Direction) -> None:
        """Take bytes and lose them, without a FIN or RST: a connection that lost some stays mute that way for good.

        To the client only: requests are done, their answers are lost.
        """
        self._call(lambda: [setattr(self._lanes[one], "swallowing", True) for one in directions or BOTH])

    def cut(self) -> None:
        """Reset all connections, both ways; new ones are welcome."""
        self._call(self._cut_all)

    def cut_after(self, direction: Direction, count: int, *, times: int = 1) -> None:
        """Reset the connection that carries the last of ``count`` more bytes, behind it; again after as many."""

        def cut(link: _Link, left: int = times - 1) -> None:
            self._cut(link)
            if left:
                self._mark(direction, count, lambda next_link: cut(next_link, left - 1))

        self._call(lambda: self._mark(direction, count, cut))

    def refuse(self) -> None:
        """Refuse new connections, as a machine does where nobody listens."""
        self._run(self._stop_listening())

    def accept(self) -> None:
        """Take new connections again."""
        self._run(self._listen())

    def heal(self) -> None:
        """No more faults; connections that lost bytes stay as they are."""

        def change() -> None:
            for lane in self._lanes.values():
                lane.latency_s = lane.bytes_per_s = lane.stall_chance = lane.stall_s = 0.0
                lane.swallowing = False
                lane.marks.clear()
                lane.open.set()

        self._call(change)
        self.accept()

    # -- when -----------------------------------------------------------------------------

    def after_s(self, seconds: float, action: Callable[[], object]) -> None:
        """Do something (with this proxy) later."""
        self._call(lambda: self._loop.call_later(seconds, action))

    def when_passed(self, direction: Direction, count: int, action: Callable[[], object]) -> None:
        """Do something (with this proxy) when ``count`` more bytes have passed, before the next one does."""
        self._call(lambda: self._mark(direction, count, lambda _link: action()))

    # -- what happened --------------------------------------------------------------------

    def passed(self, direction: Direction) -> int:
        """Bytes that were passed on, ever."""
        return self._lanes[direction].passed

    def swallowed(self, direction: Direction) -> int:
        """Bytes that were lost, ever."""
        return self._lanes[direction].swallowed

    @property
    def connections(self) -> int:
        """How many are open now."""
        return len(self._links)

    # -- in the loop's thread -------------------------------------------------------------

    def _mark(self, direction: Direction, count: int, action: Callable[[_Link], None]) -> None:
        lane = self._lanes[direction]
        lane.marks.append((lane.passed + max(1, count), action))
        lane.marks.sort(key=lambda mark: mark[0])

    def _cut(self, link: _Link) -> None:
        if not link.is_cut:
            self.cuts += 1
            link.cut()

    def _cut_all(self) -> None:
        for link in list(self._links):
            self._cut(link)

    async def _listen(self) -> None:
        if self._listeners:
            return
        for port, behind in self._routes.items():
            listener = socket.create_server(("127.0.0.1", port), backlog=256)
            # A client's bytes wait at the client, not by the megabyte in here: connections inherit it.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, CHUNK_BYTES)
            listener.setblocking(False)
            self._listeners[listener] = self._loop.create_task(self._accept_from(listener, behind))

    async def _accept_from(self, listener: socket.socket, behind: int) -> None:
        """Not asyncio.start_server: a connection that comes while that one is closed hangs for good."""
        while True:
            connection, _ = await self._loop.sock_accept(listener)
            self._keep(self._serve(behind, connection))

    async def _stop_listening(self) -> None:
        listeners, self._listeners = self._listeners, {}
        for listener, task in listeners.items():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            listener.close()

    async def _stop(self) -> None:
        await self._stop_listening()
        for link in list(self._links):
            link.cut()
        # those that have no link yet, too
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for _ in range(3):
            await asyncio.sleep(0)  # what was aborted says goodbye in the loop's next rounds

    def _keep(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)  # a loop alone would let go of it
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, behind: int, connection: socket.socket) -> None:
        self.accepted += 1
        reader, writer = await asyncio.open_connection(sock=connection, limit=CHUNK_BYTES)
        try:
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", behind, limit=CHUNK_BYTES)
        except OSError:
            _reset(writer)
            return
        except asyncio.CancelledError:
            _reset(writer)
            raise
        link = _Link(self.accepted, writer, server_writer)
        task = asyncio.current_task()
        assert task is not None
        self._links[link] = task
        pumps = [
            asyncio.ensure_future(self._pump(link, self._lanes[TO_SERVER], reader, server_writer)),
            asyncio.ensure_future(self._pump(link, self._lanes[TO_CLIENT], server_reader, writer)),
        ]
        try:
            await asyncio.gather(*pumps)
            link.close()
        except OSError:
            link.cut()  # one side reset it: so does the network, to the other one
        except asyncio.CancelledError:
            link.cut()
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            del self._links[link]

    async def _pump(
        self, link: _Link, lane: _Lane, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """One direction of one connection; latency delays bytes, but not those behind them once more."""
        under_way: asyncio.Queue[tuple[float, bytes, OSError | None]] = asyncio.Queue(CHUNKS_ON_THE_WAY)
        chance = random.Random(f"{self._seed} {link.number} {lane.direction}")
        writer.transport.set_write_buffer_limits(0)  # what counts as passed has left us

        async def receive() -> None:
            data, error = b"-", None
            while data:
                await lane.open.wait()  # in an outage bytes wait at the sender
                try:
                    data = await reader.read(CHUNK_BYTES)
                except OSError as reset:
                    data, error = b"", reset
                await under_way.put((self._loop.time() + lane.latency_s, data, error))

        receiver = asyncio.ensure_future(receive())
        try:
            while True:
                due, data, error = await under_way.get()
                await self._sleep_until(due)
                if lane.stall_chance and chance.random() < lane.stall_chance:
                    await asyncio.sleep(lane.stall_s)
                await lane.open.wait()
                if data:
                    await self._forward(link, lane, data, writer)
                elif lane.swallowing or lane.direction in link.mute:
                    link.mute.add(lane.direction)  # the other side never hears of the end, either
                    await asyncio.Event().wait()
                elif error is not None:
                    raise error
                else:
                    writer.write_eof()
                    return
        finally:
            receiver.cancel()
            await asyncio.gather(receiver, return_exceptions=True)

    async def _forward(self, link: _Link, lane: _Lane, data: bytes, writer: asyncio.StreamWriter) -> None:
        while data and not link.is_cut:
            await lane.open.wait()
            if lane.swallowing or lane.direction in link.mute:
                link.mute.add(lane.direction)
                lane.swallowed += len(data)
                return
            if lane.bytes_per_s:
                await self._sleep_until(lane.free_at)
            size = lane.piece(data)
            if lane.bytes_per_s:
                lane.free_at = max(lane.free_at, self._loop.time()) + size / lane.bytes_per_s
            lane.passed += size  # before it waits, so that no other connection takes the same bytes for its own
            writer.write(data[:size])
            await writer.drain()
            data = data[size:]
            if lane.marks and lane.marks[0][0] <= lane.passed:
                await asyncio.sleep(READING_S)
            while lane.marks and lane.marks[0][0] <= lane.passed:
                lane.marks.pop(0)[1](link)

    async def _sleep_until(self, moment: float) -> None:
        while (left := moment - self._loop.time()) > 0:
            await asyncio.sleep(left)

    # -- from any thread ------------------------------------------------------------------

    def _call(self, change: Callable[[], object]) -> None:
        if threading.current_thread() is self._thread:
            change()
            return

        async def run() -> None:
            change()

        asyncio.run_coroutine_threadsafe(run(), self._loop).result(10)

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        if threading.current_thread() is self._thread:
            self._keep(work)
            return
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)
