"""A client's tokens: asked for by a thread of librdkafka's, as long as the client lives, whatever they are."""

from __future__ import annotations

import gc
import os
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from kbr.kafka.native import load_library
from kbr_codec.rdkafka import Sink, Source
from tests.support.waiting import wait_until

PROPERTIES = {
    "bootstrap.servers": "127.0.0.1:1",
    "security.protocol": "SASL_PLAINTEXT",
    "sasl.mechanism": "OAUTHBEARER",
}
Client = Source | Sink


def _source(tokens: Callable[[], Any]) -> Client:
    return Source(PROPERTIES.items(), block_bytes=1 << 20, open_bytes=1 << 20, token_source=tokens)


def _sink(tokens: Callable[[], Any]) -> Client:
    return Sink(PROPERTIES.items(), token_source=tokens)


MAKERS = pytest.mark.parametrize("make", [_source, _sink], ids=["source", "sink"])


def _said(client: Client, words: str) -> bool:
    if isinstance(client, Sink):
        client.poll(0)
    return any(words in event[2] for event in client.client_events())


@MAKERS
def test_a_token_is_asked_for_without_anybody_polling(make: Callable[[Callable[[], Any]], Client]) -> None:
    load_library()
    asked: list[str] = []

    def tokens() -> tuple[str, int, str]:
        asked.append(threading.current_thread().name)
        return "token", int(time.time() * 1000) + 1500, "me"

    client = make(tokens)
    # again at 80 % of its life
    wait_until(lambda: len(asked) >= 2, deadline_s=30, what="a second token")
    client.close()
    count = len(asked)
    assert threading.main_thread().name not in asked
    assert len(asked) == count


@MAKERS
@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        (lambda: (_ for _ in ()).throw(RuntimeError("no\ncredentials")), "no credentials"),
        (lambda: ("token", 1, "me"), "unexpired token"),
        (lambda: None, "NoneType"),
        (lambda: ("tok\x01en", int(time.time() * 1000) + 60_000, "me"), "token"),
    ],
    ids=["raises", "expired", "nothing", "control-character"],
)
def test_what_is_wrong_with_a_token_is_an_error_of_the_client(
    make: Callable[[Callable[[], Any]], Client], tokens: Callable[[], Any], words: str
) -> None:
    load_library()
    client = make(tokens)
    wait_until(lambda: _said(client, words), deadline_s=10, what=f"{words!r} as an error")
    client.close()


@MAKERS
def test_a_client_that_is_closed_while_a_token_is_made_waits_for_it_and_lets_go(
    make: Callable[[Callable[[], Any]], Client],
) -> None:
    load_library()

    class Tokens:
        def __init__(self) -> None:
            self.begun = threading.Event()
            self.ended = False

        def __call__(self) -> tuple[str, int, str]:
            self.begun.set()
            time.sleep(0.2)
            self.ended = True
            return "token", int(time.time() * 1000) + 60_000, "me"

    for _ in range(3):
        tokens = Tokens()
        client = make(tokens)
        assert tokens.begun.wait(10)
        client.close()
        assert tokens.ended
        kept = weakref.ref(tokens)
        del tokens, client
        gc.collect()
        assert kept() is None


@pytest.mark.parametrize("kind", [Source, Sink])
def test_a_client_in_a_circle_with_its_source_is_ended_as_any_other(kind: type[Client], monkeypatch: pytest.MonkeyPatch) -> None:
    """The collector takes circles apart, the oldest object first."""
    load_library()
    unraisable: list[Any] = []
    monkeypatch.setattr("sys.unraisablehook", unraisable.append)
    asked = threading.Event()

    class Tokens:
        client: Client

        def __call__(self) -> tuple[str, int, str]:
            asked.set()
            return "token", int(time.time() * 1000) + 3_600_000, "me"

    before = len(os.listdir("/proc/self/task"))
    client = kind.__new__(kind)
    tokens = Tokens()
    tokens.client = client
    sizes = {"block_bytes": 1 << 20, "open_bytes": 1 << 20} if kind is Source else {}
    client.__init__(PROPERTIES.items(), token_source=tokens, **sizes)  # type: ignore[misc]
    assert asked.wait(30)
    gone = weakref.ref(tokens)
    del tokens, client
    gc.collect()
    assert gone() is None
    assert not unraisable, unraisable[0].exc_value
    wait_until(lambda: len(os.listdir("/proc/self/task")) <= before, deadline_s=30, what="the end of the client's threads")
