"""The fault proxy does to connections what it is told, and counts what it did."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from tests.support.proxy import TO_CLIENT, TO_SERVER, FaultProxy
from tests.support.servers import free_port
from tests.support.waiting import wait_until


class Echo:
    """A server that sends back what it gets; ``received`` is all it got, ``resets`` how many connections broke."""

    def __init__(self) -> None:
        self.received = bytearray()
        self.resets = 0
        self.ends = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._threads.append(threading.Thread(target=self._serve, args=(connection,), daemon=True))
            self._threads[-1].start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                while data := connection.recv(65536):
                    self.received += data
                    connection.sendall(data)
                self.ends += 1
            except OSError:
                self.resets += 1

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(10)


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    yield server
    server.close()


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def proxy(echo: Echo, port: int) -> Iterator[FaultProxy]:
    with FaultProxy({port: echo.port}, seed=7) as made:
        yield made


@pytest.fixture
def connect(proxy: FaultProxy, port: int) -> Iterator[Callable[[], socket.socket]]:
    made: list[socket.socket] = []

    def new() -> socket.socket:
        made.append(socket.create_connection(("127.0.0.1", port), timeout=10))
        return made[-1]

    yield new
    for one in made:
        one.close()


def receive(connection: socket.socket, count: int) -> bytes:
    """So many bytes, or what came before the end."""
    data = b""
    while len(data) < count:
        more = connection.recv(count - len(data))
        if not more:
            return data
        data += more
    return data


Connect = Callable[[], socket.socket]


def test_bytes_and_ends_pass_both_ways_and_are_counted(proxy: FaultProxy, connect: Connect, echo: Echo) -> None:
    sent = bytes(range(256)) * 4000
    connection = connect()
    sender = threading.Thread(target=connection.sendall, args=(sent,))
    sender.start()
    assert receive(connection, len(sent)) == sent
    sender.join()
    connection.shutdown(socket.SHUT_WR)
    assert connection.recv(1) == b""
    assert (proxy.passed(TO_SERVER), proxy.passed(TO_CLIENT)) == (len(sent), len(sent))
    assert (proxy.swallowed(TO_SERVER), proxy.cuts, proxy.accepted) == (0, 0, 1)
    wait_until(lambda: proxy.connections == 0, deadline_s=5, what="the connection's end")
    assert (echo.ends, echo.resets) == (1, 0)


def test_latency_delays_each_byte_once(proxy: FaultProxy, connect: Connect) -> None:
    connection = connect()
    proxy.slow(latency_s=0.15)
    begun = time.monotonic()
    for number in range(10):  # they don't wait for each other
        connection.sendall(bytes([number]))
        time.sleep(0.005)
    assert receive(connection, 10) == bytes(range(10))
    assert 0.3 <= time.monotonic() - begun < 1.2


def test_bandwidth_is_kept_by_all_connections_together(proxy: FaultProxy, connect: Connect) -> None:
    one, two = connect(), connect()
    proxy.slow(TO_SERVER, bytes_per_s=100_000)
    begun = time.monotonic()
    one.sendall(b"a" * 25_000)
    two.sendall(b"b" * 25_000)
    assert receive(one, 25_000) == b"a" * 25_000
    assert receive(two, 25_000) == b"b" * 25_000
    assert 0.4 <= time.monotonic() - begun < 2


def test_what_is_held_passes_later(proxy: FaultProxy, connect: Connect, echo: Echo) -> None:
    connection = connect()
    proxy.hold()
    connection.sendall(b"later")
    connection.settimeout(0.2)
    with pytest.raises(TimeoutError):
        connection.recv(1)
    assert not echo.received
    connection.settimeout(10)
    proxy.heal()
    assert receive(connection, 5) == b"later"


def test_a_black_hole_takes_bytes_and_says_nothing(proxy: FaultProxy, connect: Connect, echo: Echo) -> None:
    connection = connect()
    connection.sendall(b"before")
    assert receive(connection, 6) == b"before"
    proxy.swallow()
    connection.sendall(b"lost")
    wait_until(lambda: proxy.swallowed(TO_SERVER) == 4, deadline_s=5, what="the loss")
    proxy.heal()
    connection.sendall(b"behind what was lost")
    wait_until(lambda: proxy.swallowed(TO_SERVER) == 24, deadline_s=5, what="the loss")
    connection.settimeout(0.2)
    with pytest.raises(TimeoutError):
        connection.recv(1)
    assert echo.received == b"before"
    fresh = connect()
    fresh.sendall(b"new")
    assert receive(fresh, 3) == b"new"


def test_the_end_of_a_connection_is_lost_in_a_black_hole(proxy: FaultProxy, connect: Connect, echo: Echo) -> None:
    connection = connect()
    connection.sendall(b"a")
    assert receive(connection, 1) == b"a"
    proxy.swallow(TO_SERVER)
    connection.close()
    wait_until(lambda: proxy.connections == 1, deadline_s=5, what="no end")
    assert (echo.ends, echo.resets) == (0, 0)
    proxy.cut()
    wait_until(lambda: echo.resets == 1, deadline_s=5, what="the reset")


def test_answers_are_lost_while_requests_are_done(proxy: FaultProxy, connect: Connect, echo: Echo) -> None:
    connection = connect()
    proxy.swallow(TO_CLIENT)
    connection.sendall(b"done")
    wait_until(lambda: proxy.swallowed(TO_CLIENT) == 4, deadline_s=5, what="the answer's loss")
    assert echo.received == b"done"
    proxy.cut()
    with pytest.raises(ConnectionResetError):
        connection.recv(1)


def test_a_cut_resets_both_sides_and_new_connections_are_welcome(
    proxy: FaultProxy, connect: Connect, echo: Echo
) -> None:
    connections = [connect(), connect()]
    for one in connections:
        one.sendall(b"x")
        assert receive(one, 1) == b"x"
    proxy.cut()
    for one in connections:
        with pytest.raises(ConnectionResetError):
            one.recv(1)
    wait_until(lambda: echo.resets == 2, deadline_s=5, what="the server's resets")
    assert proxy.cuts == 2
    fresh = connect()
    fresh.sendall(b"y")
    assert receive(fresh, 1) == b"y"


def test_a_part_of_an_answer_passes_to_the_byte_before_the_reset(proxy: FaultProxy, connect: Connect) -> None:
    proxy.cut_after(TO_CLIENT, 12_345, times=2)
    for number in (1, 2):
        connection = connect()
        connection.sendall(b"z" * 20_000)
        got = b""
        with pytest.raises(ConnectionResetError):
            while True:
                got += connection.recv(65536)
        assert 0 < len(got) <= 12_345  # a reset may take with it what was not read yet
        assert proxy.cuts == number
        assert proxy.passed(TO_CLIENT) == number * 12_345
    whole = connect()
    whole.sendall(b"z" * 20_000)
    assert len(receive(whole, 20_000)) == 20_000


def test_only_the_connection_that_carries_the_byte_is_cut(proxy: FaultProxy, connect: Connect) -> None:
    idle, busy = connect(), connect()
    proxy.cut_after(TO_SERVER, 5)
    busy.sendall(b"12345")
    with pytest.raises(ConnectionResetError):
        receive(busy, 10)
    idle.sendall(b"1")
    assert receive(idle, 1) == b"1"


def test_connections_are_refused_until_they_are_accepted(proxy: FaultProxy, connect: Connect) -> None:
    old = connect()
    wait_until(lambda: proxy.connections == 1, deadline_s=5, what="the connection")
    proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        connect()
    old.sendall(b"still open")
    assert receive(old, 10) == b"still open"
    proxy.accept()
    connect()


def test_a_server_that_is_not_there_resets_its_clients(port: int) -> None:
    with FaultProxy({port: free_port()}):
        with pytest.raises(ConnectionResetError):
            with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
                connection.recv(1)


def test_faults_come_at_a_byte_and_go_by_the_clock(proxy: FaultProxy, connect: Connect) -> None:
    def outage() -> None:
        proxy.hold()
        proxy.after_s(0.3, proxy.heal)

    connection = connect()
    proxy.when_passed(TO_SERVER, 1000, outage)
    begun = time.monotonic()
    connection.sendall(b"a" * 5000)
    assert len(receive(connection, 5000)) == 5000
    assert time.monotonic() - begun >= 0.3


def test_listening_can_stop_and_begin_by_itself(proxy: FaultProxy, connect: Connect) -> None:
    first = connect()
    proxy.when_passed(TO_SERVER, 1, proxy.refuse)
    first.sendall(b"a")
    assert receive(first, 1) == b"a"

    def refused() -> bool:
        try:
            connect()
        except ConnectionError:
            return True
        return False

    wait_until(refused, deadline_s=5, what="refusal")
    proxy.after_s(0.05, proxy.accept)
    wait_until(lambda: not refused(), deadline_s=5, what="a welcome")


@pytest.mark.parametrize("seed", [1, 2])
def test_stalls_are_the_same_for_the_same_seed(echo: Echo, port: int, seed: int) -> None:
    def stalls() -> list[bool]:
        with FaultProxy({port: echo.port}, seed=seed) as proxy:
            proxy.stall(TO_SERVER, chance=0.3, seconds=0.06)
            with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                took = []
                for _ in range(25):
                    begun = time.monotonic()
                    connection.sendall(b"x")
                    assert receive(connection, 1) == b"x"
                    took.append(time.monotonic() - begun >= 0.06)
                return took

    first = stalls()
    assert first == stalls()
    assert 2 <= sum(first) <= 15
