"""S3 under the faults of a real network and a real server: the right result, or the right error in time."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator

import pytest

from kbr.errors import AccessDenied, ObjectMissing, PreconditionFailed, StorageError, StoreFull, StoreUnavailable
from kbr.storage import ObjectStore, StorageOptions, open_store
from tests.support.scripted_s3 import Answer, Cut, Lose, Mangle, Overtake, ScriptedS3, Silence, scripted_s3
from tests.support.servers import free_port

PART_BYTES = 5 * 1024 * 1024
DATA = b"0123456789"
#: What a store that waits for ever would be caught by; far above every deadline here.
HANGING_S = 30

CALLS: dict[str, Callable[[ObjectStore], object]] = {
    "put_object": lambda store: store.put("new", DATA).size_bytes,
    "get_object": lambda store: store.get("there", max_bytes=100),
    "head_object": lambda store: store.head("there").size_bytes,
    "list_objects_v2": lambda store: [info.key for info in store.list("")],
    "delete_object": lambda store: store.delete("no/such"),
}
RESULTS = {
    "put_object": len(DATA),
    "get_object": DATA,
    "head_object": len(DATA),
    "list_objects_v2": ["there"],
    "delete_object": None,
}


@pytest.fixture
def server() -> Iterator[ScriptedS3]:
    """One that fails as it is told, with one object in it."""
    with scripted_s3() as started:
        started.objects["p/there"] = (DATA, {})
        yield started
        assert started.unused() == [], "a fault that nothing met proves nothing"


def _options(endpoint_url: str, **changes: float) -> StorageOptions:
    values: dict[str, float] = {"deadline_s": 20.0, "check_deadline_s": 1.0, **changes}
    return StorageOptions(
        url="s3://bucket/p",
        endpoint_url=endpoint_url,
        access_key="a",
        secret_key="b",
        region="us-east-1",
        path_style=True,
        part_bytes=PART_BYTES,
        **values,
    )


@pytest.fixture
def store(server: ScriptedS3) -> Iterator[ObjectStore]:
    opened = open_store(_options(server.endpoint_url))
    yield opened
    opened.close()


@pytest.fixture
def hasty(server: ScriptedS3) -> Iterator[ObjectStore]:
    """A store that gives up after half a second."""
    opened = open_store(_options(server.endpoint_url, deadline_s=0.5, read_timeout_s=0.5))
    yield opened
    opened.close()


def _upload(store: ObjectStore, data: bytes, key: str = "new") -> None:
    upload = store.open_upload(key)
    upload.write(data)
    upload.commit()


# -- temporary errors ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [Answer(500, "InternalError"), Answer(503, "SlowDown"), Answer(503), Answer(429, "TooManyRequests"), Lose()],
    ids=str,
)
@pytest.mark.parametrize("operation", CALLS)
def test_what_can_get_better_is_tried_again_until_it_works(
    server: ScriptedS3, store: ObjectStore, operation: str, fault: Answer | Lose
) -> None:
    server.fail(operation, fault, fault)
    assert CALLS[operation](store) == RESULTS[operation]
    assert server.count(operation) >= 3


@pytest.mark.parametrize("fault", [Answer(503, "SlowDown"), Answer(500), Lose(), Silence()], ids=str)
@pytest.mark.parametrize("operation", CALLS)
def test_what_stays_broken_is_given_up_at_the_deadline_and_named(
    server: ScriptedS3, hasty: ObjectStore, operation: str, fault: Answer | Lose | Silence
) -> None:
    server.fail_always("*", fault)
    begun = time.monotonic()
    with pytest.raises(StoreUnavailable) as caught:
        CALLS[operation](hasty)
    assert time.monotonic() - begun < HANGING_S
    assert server.endpoint_url in str(caught.value)
    assert caught.value.hint
    assert caught.value.retriable


def test_nobody_there_is_told_by_the_check_in_its_own_short_time() -> None:
    endpoint = f"http://127.0.0.1:{free_port()}"
    store = open_store(_options(endpoint, deadline_s=900.0))
    begun = time.monotonic()
    with pytest.raises(StoreUnavailable) as caught:
        store.check()
    assert time.monotonic() - begun < HANGING_S
    assert endpoint in str(caught.value)
    store.close()


def test_a_listing_goes_on_at_the_page_that_failed(server: ScriptedS3, store: ObjectStore) -> None:
    server.objects.update({f"p/k/{number:03d}": (b"", {}) for number in range(25)})
    server.page_size = 10
    listed = store.list("k/")
    server.fail("list_objects_v2", Lose(), Answer(503, "SlowDown"))
    assert [info.key for info in listed] == [f"k/{number:03d}" for number in range(25)]


# -- errors that can't get better ---------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Answer(403, "AccessDenied"), AccessDenied),
        (Answer(403, "InvalidAccessKeyId"), AccessDenied),
        (Answer(403, "SignatureDoesNotMatch"), AccessDenied),
        (Answer(403, "RequestTimeTooSkewed"), AccessDenied),
        (Answer(507, "InsufficientStorage"), StoreFull),
        (Answer(403, "QuotaExceeded"), StoreFull),
        (Answer(404, "NoSuchBucket"), StorageError),
    ],
    ids=str,
)
def test_what_cannot_get_better_is_said_at_once(
    server: ScriptedS3, store: ObjectStore, fault: Answer, kind: type[StorageError]
) -> None:
    server.fail("put_object", fault)
    with pytest.raises(kind) as caught:
        store.put("new", DATA)
    assert type(caught.value) is kind
    assert server.count("put_object") == 1
    assert "p/new" not in server.objects


@pytest.mark.parametrize("operation", CALLS)
def test_a_missing_right_is_told_by_every_operation_at_once(
    server: ScriptedS3, store: ObjectStore, operation: str
) -> None:
    server.fail(operation, Answer(403, "AccessDenied"))
    with pytest.raises(AccessDenied):
        CALLS[operation](store)
    assert server.count(operation) == 1


def test_an_object_of_another_size_than_was_written_is_refused(server: ScriptedS3, store: ObjectStore) -> None:
    server.fail("put_object", Mangle(b"\r\n0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n"))
    with pytest.raises(StorageError, match="10 were written"):
        store.put("new", DATA)


# -- lost replies -------------------------------------------------------------------------


def test_a_put_if_absent_whose_reply_was_lost_knows_its_own_object(server: ScriptedS3, store: ObjectStore) -> None:
    server.fail("put_object", Lose())
    assert store.put("new", DATA, if_absent=True).size_bytes == len(DATA)
    assert server.objects["p/new"][0] == DATA


def test_a_put_if_absent_never_takes_anothers_object_for_its_own(server: ScriptedS3, store: ObjectStore) -> None:
    server.objects["p/new"] = (DATA, {"kbr-upload": "0123456789abcdef"})
    server.fail("head_object", Answer(503, "SlowDown"))
    with pytest.raises(PreconditionFailed):
        store.put("new", DATA, if_absent=True)
    assert server.objects["p/new"] == (DATA, {"kbr-upload": "0123456789abcdef"})


@pytest.mark.parametrize("lose", [False, True], ids=["answered", "reply lost"])
def test_a_writer_that_was_overtaken_between_its_look_and_its_put_is_refused(
    server: ScriptedS3, store: ObjectStore, lose: bool
) -> None:
    server.fail("put_object", Overtake(b"the other", lose))
    with pytest.raises(PreconditionFailed):
        store.put("new", DATA, if_absent=True)
    assert server.objects["p/new"][0] == b"the other"


@pytest.mark.parametrize("operation", ["create_multipart_upload", "upload_part", "complete_multipart_upload"])
@pytest.mark.parametrize("fault", [Lose(), Answer(503, "SlowDown"), Answer(500, "InternalError")], ids=str)
def test_a_large_upload_survives_each_of_its_requests_failing(
    server: ScriptedS3, store: ObjectStore, operation: str, fault: Answer | Lose
) -> None:
    data = os.urandom(2 * PART_BYTES + 17)
    server.fail(operation, fault)
    _upload(store, data)
    assert server.objects["p/new"][0] == data


def test_a_completion_answered_with_an_error_inside_a_200_is_no_success(server: ScriptedS3, store: ObjectStore) -> None:
    data = os.urandom(PART_BYTES + 1)
    server.fail("complete_multipart_upload", Answer(200, "InternalError"))
    _upload(store, data)
    assert server.objects["p/new"][0] == data
    assert server.count("complete_multipart_upload") == 2


def test_an_upload_that_somebody_else_ended_is_an_error_at_once(server: ScriptedS3, store: ObjectStore) -> None:
    server.fail("complete_multipart_upload", Answer(404, "NoSuchUpload"))
    with pytest.raises(StorageError) as caught:
        _upload(store, os.urandom(PART_BYTES + 1))
    assert not isinstance(caught.value, StoreUnavailable)
    assert server.count("complete_multipart_upload") == 1
    assert "p/new" not in server.objects


def test_an_older_object_is_not_taken_for_the_upload_that_vanished(server: ScriptedS3, store: ObjectStore) -> None:
    data = os.urandom(PART_BYTES + 1)
    server.objects["p/new"] = (data, {"kbr-upload": "0123456789abcdef"})
    server.fail("complete_multipart_upload", Answer(404, "NoSuchUpload"))
    with pytest.raises(StorageError):
        _upload(store, data)


@pytest.mark.parametrize("operation", ["upload_part", "complete_multipart_upload"])
def test_an_upload_that_fails_leaves_neither_object_nor_parts(
    server: ScriptedS3, hasty: ObjectStore, operation: str
) -> None:
    server.fail_always(operation, Answer(503, "SlowDown"))
    with pytest.raises(StoreUnavailable):
        _upload(hasty, os.urandom(2 * PART_BYTES + 1))
    assert "p/new" not in server.objects
    assert server.uploads == {}


# -- short bodies -------------------------------------------------------------------------


@pytest.mark.parametrize("after_bytes", [0, 1, 9])
def test_a_body_that_breaks_off_is_read_again(server: ScriptedS3, store: ObjectStore, after_bytes: int) -> None:
    server.fail("get_object", Cut(after_bytes), Cut(after_bytes))
    assert store.get("there", max_bytes=100) == DATA
    server.fail("get_object", Cut(min(after_bytes, 3)))
    assert store.read_range("there", 3, 4) == b"3456"


def test_a_body_that_always_breaks_off_is_never_given_as_whole(server: ScriptedS3, hasty: ObjectStore) -> None:
    server.fail_always("get_object", Cut(5))
    with pytest.raises(StoreUnavailable):
        hasty.get("there", max_bytes=100)
    with pytest.raises(StoreUnavailable):
        hasty.read_range("there", 0, 10)


def test_a_missing_object_is_missing_though_the_server_was_busy_first(server: ScriptedS3, store: ObjectStore) -> None:
    server.fail("get_object", Answer(503, "SlowDown"))
    with pytest.raises(ObjectMissing):
        store.get("no/such", max_bytes=100)
