"""Google Cloud Storage: what its answers mean, and that nothing is tried, or told, twice. On a server that does as it is told."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from gcsfs.retry import HttpError, NonRetryableError
from google.auth.exceptions import RefreshError, TransportError

from kbr.errors import AccessDenied, KbrError, PreconditionFailed, StorageError, StoreUnavailable
from kbr.storage import StorageOptions, gcs_filesystem
from kbr.storage.filesystem import FilesystemStore
from kbr.storage.fsspec_open import open_filesystem
from kbr.timing import Backoff
from tests.support.clocks import FakeClock
from tests.support.scripted_gcs import ScriptedGcs

_LARGE = bytes(range(250)) * 5000


@pytest.fixture
def server() -> Iterator[ScriptedGcs]:
    with ScriptedGcs() as scripted:
        yield scripted


@pytest.fixture
def store(server: ScriptedGcs, monkeypatch: pytest.MonkeyPatch) -> FilesystemStore:
    """With parts of 512 KiB."""
    monkeypatch.setattr(gcs_filesystem, "_PART_BYTES", 512 * 1024)
    return _store(server.endpoint_url)


def _store(endpoint_url: str, **more: Any) -> FilesystemStore:
    extra = more.pop("extra", {"endpoint_url": endpoint_url, "token": "anon"})
    options = StorageOptions(url="gs://bucket/p", extra=extra, deadline_s=30, **more)
    filesystem, root = open_filesystem(options)
    return FilesystemStore(options, filesystem, root, clock=FakeClock(), backoff=Backoff(base_s=1, cap_s=10))


def _write(store: FilesystemStore, data: bytes, *, is_upload: bool, if_absent: bool = True) -> None:
    if not is_upload:
        store.put("m", data, if_absent=if_absent)
        return
    upload = store.open_upload("m", if_absent=if_absent)
    upload.write(data)
    upload.commit()


@pytest.mark.parametrize(
    ("status", "kind", "is_tried_again"),
    [
        (400, StorageError, False),
        (401, AccessDenied, False),
        (403, AccessDenied, False),
        (404, StorageError, False),
        (408, StoreUnavailable, True),
        (413, StorageError, False),
        (429, StoreUnavailable, True),
        (500, StoreUnavailable, True),
        (502, StoreUnavailable, True),
        (503, StoreUnavailable, True),
    ],
)
def test_what_google_answers_is_one_line_and_tried_again_by_the_store_alone(
    server: ScriptedGcs, store: FilesystemStore, caplog: pytest.LogCaptureFixture, status: int, kind: type[KbrError], is_tried_again: bool
) -> None:
    server.faults = [status] * 100
    with caplog.at_level(logging.WARNING), pytest.raises(kind) as caught:
        store.put("m", b"x")
    message = caught.value.message
    assert message.startswith("put of gs://bucket/p/m: ")
    assert "\n" not in message
    if status == 404:
        assert message.endswith("the bucket or folder for it is not there")
    else:
        assert f"so they say (HTTP {status})" in message
    assert (f"({len(server.writes)} tries in" in message) == is_tried_again
    assert (len(server.writes) > 1) == is_tried_again
    assert {record.name for record in caplog.records} <= {"kbr.storage"}  # gcsfs's own say tracebacks
    assert type(caught.value) is kind


@pytest.mark.parametrize("status", [429, 503])
def test_what_passes_is_survived(server: ScriptedGcs, store: FilesystemStore, status: int) -> None:
    server.faults = [status] * 3
    store.put("m", b"x")
    assert server.objects == {"p/m": b"x"}
    assert len(server.writes) == 4


def test_nobody_there_is_told_with_the_place(server: ScriptedGcs) -> None:
    with ScriptedGcs() as gone:
        place = gone.endpoint_url
    with pytest.raises(StoreUnavailable, match=r"put of gs://bucket/p/m: Cannot connect to host 127.0.0.1.* tries in"):
        _store(place).put("m", b"x")


def test_a_server_that_does_not_answer_is_given_up_after_the_timeout(server: ScriptedGcs) -> None:
    server.faults = ["hang"]
    store = _store(server.endpoint_url, read_timeout_s=0.2)
    store.put("m", b"x")
    assert server.writes == ["multipart"] * 2


@pytest.mark.parametrize(("data", "faults"), [(b"small", ["lose"]), (_LARGE, ["", "", "", "lose"])], ids=["at once", "in parts"])
@pytest.mark.parametrize("is_upload", [False, True])
def test_a_conditional_write_whose_reply_was_lost_is_ours(
    server: ScriptedGcs, store: FilesystemStore, data: bytes, faults: list[str | int], is_upload: bool
) -> None:
    if len(data) > 1000 and not is_upload:
        faults = ["lose"]  # put() has small objects, and sends each at once
    server.faults = faults
    _write(store, data, is_upload=is_upload)
    assert server.objects == {"p/m": data}


@pytest.mark.parametrize("is_upload", [False, True])
def test_another_writer_between_the_look_and_the_write_wins(
    server: ScriptedGcs, store: FilesystemStore, monkeypatch: pytest.MonkeyPatch, is_upload: bool
) -> None:
    assert store.properties.honours_if_absent is None
    look = store._is_there

    def look_and_lose(path: str) -> bool:
        found = look(path)
        server.objects["p/m"] = b"another's"
        return found

    monkeypatch.setattr(store, "_is_there", look_and_lose)
    with pytest.raises(PreconditionFailed, match="gs://bucket/p/m is already there"):
        _write(store, _LARGE, is_upload=is_upload)
    assert server.objects == {"p/m": b"another's"}
    assert store.properties.honours_if_absent is True


def test_an_upload_goes_on_from_where_the_server_has_it(server: ScriptedGcs, store: FilesystemStore) -> None:
    server.faults = ["", "less", "", "less"]
    _write(store, _LARGE, is_upload=True)
    assert server.objects == {"p/m": _LARGE}
    assert server.writes == ["resumable"] + ["part"] * 4


@pytest.mark.parametrize("fault", [503, "lose"])
@pytest.mark.parametrize("at", range(4))
def test_an_upload_that_breaks_off_anywhere_is_whole_in_the_end(server: ScriptedGcs, store: FilesystemStore, at: int, fault: str | int) -> None:
    server.faults = [""] * at + [fault]
    _write(store, _LARGE, is_upload=True, if_absent=False)
    assert server.objects == {"p/m": _LARGE}


@pytest.mark.parametrize(("data", "at"), [(b"small", 0), (_LARGE, 3)])
def test_what_the_server_has_kept_otherwise_is_written_again(server: ScriptedGcs, store: FilesystemStore, data: bytes, at: int) -> None:
    server.faults = [""] * at + ["other"]
    _write(store, data, is_upload=True, if_absent=False)
    assert server.objects == {"p/m": data}
    assert len(server.writes) == 2 * (at + 1)


def _refused(error: Exception, cause: Exception | None = None) -> Exception:
    """As gcsfs raises what google-auth does."""
    error.__cause__ = cause
    told = HttpError({"code": 401, "message": "Invalid Credentials"})
    told.__cause__ = error
    return told


@pytest.mark.parametrize(
    ("error", "kind", "is_tried_again"),
    [
        (_refused(RefreshError("no such account")), AccessDenied, False),
        (_refused(RefreshError("server error", retryable=True)), StoreUnavailable, True),
        (_refused(RefreshError("x"), TransportError("metadata.google.internal can't be reached")), StoreUnavailable, True),
        (TransportError("oauth2.googleapis.com can't be reached"), StoreUnavailable, True),
        (NonRetryableError("Got error while refreshing credentials."), AccessDenied, False),
    ],
    ids=["not you", "tells to try again", "no metadata server", "no token server", "a token at its end"],
)
def test_who_gives_credentials_and_is_away_is_waited_for_and_a_refusal_is_not(
    store: FilesystemStore, monkeypatch: pytest.MonkeyPatch, error: Exception, kind: type[KbrError], is_tried_again: bool
) -> None:
    tries = []

    def apply(_headers: object) -> None:
        tries.append(1)
        raise error

    monkeypatch.setattr(store._filesystem.credentials, "apply", apply)
    with pytest.raises(kind):
        store.put("m", b"x")
    assert (len(tries) > 1) == is_tried_again


def test_a_service_account_s_file_is_used_and_its_token_goes_with_every_request(
    server: ScriptedGcs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(gcs_filesystem, "_PART_BYTES", 512 * 1024)
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    account = {
        "type": "service_account", "client_email": "kbr@example.iam.gserviceaccount.com", "private_key_id": "1",
        "private_key": pem.decode(), "token_uri": f"{server.endpoint_url}/token",
    }  # fmt: skip
    (tmp_path / "account.json").write_text(json.dumps(account))
    store = _store(server.endpoint_url, extra={"endpoint_url": server.endpoint_url, "token": str(tmp_path / "account.json")})
    _write(store, _LARGE, is_upload=True)
    assert server.tokens == ["Bearer the-token"] * 4
