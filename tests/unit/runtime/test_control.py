"""A run's socket: it answers its user, nobody else, and no request harms the run."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from kbr.errors import RunMissing, UsageError
from kbr.runtime import control
from kbr.runtime.control import ControlServer, ask, find_runs


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path / "kbr"


@pytest.fixture
def server(folder: Path) -> Iterator[ControlServer]:
    def answer(request: Mapping[str, Any]) -> Mapping[str, Any]:
        if "bad" in request:
            raise UsageError("that is bad", hint="do not")
        return {"heard": dict(request)}

    server = ControlServer(answer)
    server.start()
    yield server
    server.close()


def _raw(path: Path, data: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(path))
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        return connection.recv(65536)


def test_a_request_is_answered_and_the_socket_goes_with_the_run(server: ControlServer) -> None:
    (path,) = find_runs()
    assert path.stem == str(os.getpid())
    assert ask(path, {"a": 1}) == {"heard": {"a": 1}}
    server.close()
    assert find_runs() == []
    with pytest.raises(RunMissing):
        ask(path, {})


def test_a_refusal_arrives_as_the_error_that_it_is(server: ControlServer) -> None:
    with pytest.raises(UsageError, match="that is bad") as caught:
        ask(find_runs()[0], {"bad": True})
    assert caught.value.hint == "do not"


@pytest.mark.parametrize("data", [b"", b"\n", b"[]\n", b"{" * 100_000, b"[" * 60_000 + b"\n", b"\xff\xfe\n", b"{}"])
def test_nonsense_does_not_end_the_server(server: ControlServer, data: bytes) -> None:
    (path,) = find_runs()
    try:
        _raw(path, data)
    except OSError:
        assert len(data) > 65536  # it hung up in the middle
    assert ask(path, {"still": "there"}) == {"heard": {"still": "there"}}


def test_only_the_user_may_enter(server: ControlServer, folder: Path) -> None:
    assert folder.stat().st_mode & 0o777 == 0o700
    assert find_runs()[0].stat().st_mode & 0o777 == 0o600


def test_a_folder_that_others_may_enter_is_not_used_and_the_run_goes_on(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder.mkdir(mode=0o755)
    folder.chmod(0o755)
    server = ControlServer(lambda request: request)
    server.start()
    server.close()
    assert list(folder.iterdir()) == []
    with pytest.raises(RunMissing, match="not a folder of this user's alone"):
        find_runs()


def test_a_link_to_a_folder_is_not_followed(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    folder.symlink_to(tmp_path / "elsewhere")
    ControlServer(lambda request: request).start()
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_what_a_killed_run_left_behind_is_removed_when_it_is_asked(folder: Path) -> None:
    folder.mkdir(mode=0o700)
    stale = folder / "1.sock"
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(stale))
    left.close()
    with pytest.raises(RunMissing, match="has ended"):
        ask(stale, {})
    assert find_runs() == []


def test_a_run_takes_over_the_socket_that_an_earlier_process_of_its_pid_left(folder: Path) -> None:
    folder.mkdir(mode=0o700)
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(folder / f"{os.getpid()}.sock"))
    left.close()
    server = ControlServer(lambda request: {"here": True})
    server.start()
    try:
        assert ask(find_runs()[0], {}) == {"here": True}
    finally:
        server.close()


@pytest.mark.fault("H6", "another user asks a running kbr by its socket", promise=8)
@pytest.mark.parametrize(("uid", "answered"), [(os.getuid(), True), (0, True), (None, True), (os.getuid() + 1, False)])
def test_only_this_user_and_root_are_answered(
    server: ControlServer, folder: Path, monkeypatch: pytest.MonkeyPatch, uid: int | None, answered: bool
) -> None:
    """Should somebody have opened the folder to others."""
    monkeypatch.setattr(control, "_peer_uid", lambda _connection: uid)
    (path,) = find_runs()
    try:
        said = _raw(path, b"{}\n")
    except ConnectionError:  # closed before it had read all
        said = b""
    assert bool(said) is answered


def test_the_kernel_tells_who_asks() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert control._peer_uid(ours) == os.getuid()
