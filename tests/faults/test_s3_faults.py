"""The S3 store against a server whose every fault is scripted."""

from __future__ import annotations

import itertools
import os
import pickle
import random
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kbr.errors import (
    AccessDenied,
    ConfigError,
    KbrError,
    Locked,
    ObjectMissing,
    PreconditionFailed,
    StorageError,
    StoreFull,
    StoreUnavailable,
)
from kbr.repository.lock_claim import LockClaim, LockTimes
from kbr.repository.lock_process import LockProcess
from kbr.storage import StorageOptions, open_store
from kbr.storage.fsspec_store import S3fsClient
from kbr.storage.s3 import S3Store
from kbr.storage.s3_upload import PARTS_PER_SIZE
from kbr.timing import Backoff
from tests.support.certificates import Authority
from tests.support.scripted_s3 import ScriptedS3, StoredObject

PART_BYTES = 5 * 1024 * 1024
SECRET = "a-very-secret-key"
SUPPORT = Path(__file__).parents[1] / "support"


def store_at(endpoint_url: str, client: S3fsClient | None = None, **options: object) -> S3Store:
    """A store with short times; with ``client``, one that need not be made first (0.4 s)."""
    facts: dict[str, object] = {
        "url": "s3://bucket/p",
        "endpoint_url": endpoint_url,
        "access_key": "testkey",
        "secret_key": SECRET,
        "region": "us-east-1",
        "path_style": True,
        "deadline_s": 5.0,
        "check_deadline_s": 1.0,
        "connect_timeout_s": 0.5,
        "read_timeout_s": 0.5,
        "part_bytes": PART_BYTES,
    }
    made = StorageOptions(**{**facts, **options})  # type: ignore[arg-type]
    return S3Store(
        made, client=client or S3fsClient(made), backoff=Backoff(base_s=0.01, cap_s=0.05), rng=random.Random(1)
    )


@pytest.fixture(scope="module")
def client() -> Iterator[tuple[ScriptedS3, S3fsClient]]:
    """One server and one client for all tests of this module."""
    with ScriptedS3() as server:
        made = S3fsClient(
            StorageOptions(
                url="s3://bucket",
                endpoint_url=server.endpoint_url,
                access_key="testkey",
                secret_key=SECRET,
                region="us-east-1",
                path_style=True,
                connect_timeout_s=0.5,
                read_timeout_s=0.5,
            )
        )
        yield server, made
        made.close()


@pytest.fixture
def server(client: tuple[ScriptedS3, S3fsClient]) -> ScriptedS3:
    client[0].reset()
    return client[0]


@pytest.fixture
def store(server: ScriptedS3, client: tuple[ScriptedS3, S3fsClient]) -> S3Store:
    return store_at(server.endpoint_url, client[1])


@pytest.fixture
def hasty(server: ScriptedS3, client: tuple[ScriptedS3, S3fsClient]) -> S3Store:
    """A store that gives up after half a second."""
    return store_at(server.endpoint_url, client[1], deadline_s=0.5)


def upload(store: S3Store, size: int, *, if_absent: bool = False) -> bytes:
    data = os.urandom(size)
    begun = store.open_upload("m", if_absent=if_absent)
    for start in range(0, size, 3_000_001):
        begun.write(data[start : start + 3_000_001])
    begun.commit()
    return data


# -- temporary errors -------------------------------------------------------------------------

OPERATIONS: dict[str, Callable[[S3Store], object]] = {
    "put": lambda store: store.put("m", b"new"),
    "get": lambda store: store.get("there", max_bytes=100),
    "head": lambda store: store.head("there"),
    "list": lambda store: list(store.list("")),
    "delete": lambda store: store.delete("there"),
    "create": lambda store: upload(store, 2 * PART_BYTES + 1),
    "upload_part": lambda store: upload(store, 2 * PART_BYTES + 1),
    "complete": lambda store: upload(store, 2 * PART_BYTES + 1),
}
TEMPORARY = {
    "500": {"kind": "error", "code": "InternalError", "status": 500},
    "503": {"kind": "error", "code": "SlowDown", "status": 503},
    "429": {"kind": "error", "code": "TooManyRequests", "status": 429},
    "request timeout": {"kind": "error", "code": "RequestTimeout", "status": 400},
    "bad gateway": {"kind": "error", "code": "BadGateway", "status": 502},
    "dropped": {"kind": "drop"},
    "reply lost": {"kind": "lose"},
}


@pytest.mark.fault("S1", "500, 503, SlowDown, 429, reset, for every operation", promise=1)
@pytest.mark.parametrize(
    ("operation", "fault"),
    [
        (operation, fault)
        for operation in OPERATIONS
        for fault in TEMPORARY
        if (operation, fault) != ("head", "request timeout")  # no body: a HEAD's 400 can't be told from others
    ],
)
def test_what_can_get_better_is_tried_again_until_it_is(
    server: ScriptedS3, store: S3Store, operation: str, fault: str
) -> None:
    store.put("there", b"0123456789")
    server.fail(operation, times=3 if fault != "reply lost" else 1, **TEMPORARY[fault])  # type: ignore[arg-type]
    before = server.count(operation)
    OPERATIONS[operation](store)
    assert server.faults[0].times == 0
    assert server.count(operation) > before + 1
    assert server.uploads == {} or (operation, fault) == ("create", "reply lost")  # the id is in the lost reply


@pytest.mark.fault("S1", "an outage longer than the deadline", promise=4)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_outage_ends_at_the_deadline_and_leaves_no_object(
    server: ScriptedS3, hasty: S3Store, operation: str
) -> None:
    server.objects["p/there"] = StoredObject(b"0123456789")
    server.fail(operation, "error", times=10_000, code="SlowDown", status=503)
    started = time.monotonic()
    with pytest.raises(StoreUnavailable, match=r"\d+ tries") as caught:
        OPERATIONS[operation](hasty)
    assert time.monotonic() - started < 20  # it would go on for a minute and more
    assert server.endpoint_url in str(caught.value)
    assert set(server.objects) == {"p/there"}


@pytest.mark.fault("S1", "no answer", promise=1)
@pytest.mark.parametrize("operation", ["get", "put", "list"])
def test_a_server_that_does_not_answer_is_given_up_and_asked_again(
    server: ScriptedS3, store: S3Store, operation: str
) -> None:
    store.put("there", b"0123456789")
    server.fail(operation, "hang")
    OPERATIONS[operation](store)


@pytest.mark.fault("S3", "a short body", promise=9)
@pytest.mark.parametrize("kind", ["cut", "short"])
def test_a_body_shorter_than_asked_is_read_again_and_never_given(server: ScriptedS3, store: S3Store, kind: str) -> None:
    data = os.urandom(100_000)
    store.put("m", data)
    server.fail("get", kind, times=2)
    assert store.read_range("m", 10, 90_000) == data[10:90_010]
    assert server.count("get") == 3
    server.fail("get", "cut", times=2)
    assert store.get("m", max_bytes=100_000) == data


def test_a_range_beyond_the_end_says_where_the_object_ends(server: ScriptedS3, store: S3Store) -> None:
    store.put("m", b"0123456789")
    for start, length in ((5, 10), (10, 1), (99, 1)):
        with pytest.raises(StorageError, match=r"s3://bucket/p/m ends at byte 10, before"):
            store.read_range("m", start, length)


# -- lost replies -----------------------------------------------------------------------------


@pytest.mark.fault("S2", "of a conditional PUT", promise=1)
@pytest.mark.parametrize("conditions", ["honour", "ignore", "refuse"])
def test_a_conditional_write_whose_reply_was_lost_is_known_as_ours(
    server: ScriptedS3, store: S3Store, conditions: str
) -> None:
    server.conditions = conditions
    server.fail("put", "lose", skip=1 if conditions == "refuse" else 0)
    assert store.put("m", b"ours", if_absent=True).size_bytes == 4
    assert server.objects["p/m"].data == b"ours"


@pytest.mark.fault("S2", "412 on an object of our own", promise=1)
def test_a_conditional_write_that_was_done_twice_at_once_is_known_as_ours_by_its_412(
    server: ScriptedS3, store: S3Store
) -> None:
    server.fail("put", "lose")
    # the look before the second try meets an error; so it is the 412 that has to be understood
    server.fail("head", "error", skip=1)
    store.put("m", b"ours", if_absent=True)
    assert server.objects["p/m"].data == b"ours"


def test_a_look_that_fails_after_a_412_is_not_taken_for_another_writer(server: ScriptedS3, store: S3Store) -> None:
    server.fail("put", "error", code="PreconditionFailed", status=412)  # a proxy's second try of what it had done
    server.fail("head", "drop", skip=1)
    store.put("m", b"ours", if_absent=True)
    assert server.objects["p/m"].data == b"ours"


@pytest.mark.fault("S2", "412 on another's object", promise=1)
@pytest.mark.parametrize("conditions", ["honour", "ignore", "refuse"])
def test_a_conditional_write_never_replaces_another_s_object(
    server: ScriptedS3, store: S3Store, conditions: str
) -> None:
    server.conditions = conditions
    server.objects["p/m"] = StoredObject(b"another's")
    with pytest.raises(PreconditionFailed):
        store.put("m", b"ours", if_absent=True)
    assert server.objects["p/m"].data == b"another's"
    store.put("n", b"ours", if_absent=True)
    assert server.objects["p/n"].data == b"ours"
    assert store.properties.honours_if_absent is (False if conditions == "refuse" else None)


def test_of_two_conditional_writers_at_once_the_second_is_refused(server: ScriptedS3, store: S3Store) -> None:
    server.objects["p/m"] = StoredObject(b"another's")
    server.fail("head", "error", code="404", status=404)  # the look was before the other one wrote
    with pytest.raises(PreconditionFailed):
        store.put("m", b"ours", if_absent=True)
    assert store.properties.honours_if_absent is True


#: One PUT, and parts.
SIZES = {"put": 100, "complete": 2 * PART_BYTES + 17}


@pytest.mark.parametrize("operation", SIZES)
@pytest.mark.parametrize("conditions", ["honour", "ignore", "refuse"])
def test_an_upload_if_absent_is_done_and_never_replaces_another_s_object(
    server: ScriptedS3, store: S3Store, conditions: str, operation: str
) -> None:
    server.conditions = conditions
    data = upload(store, SIZES[operation], if_absent=True)
    assert server.objects["p/m"].data == data
    server.objects["p/m"] = StoredObject(b"another's")
    with pytest.raises(PreconditionFailed, match=r"s3://bucket/p/m is already there"):
        upload(store, SIZES[operation], if_absent=True)
    assert server.objects["p/m"].data == b"another's"
    assert server.uploads == {}


@pytest.mark.parametrize("operation", SIZES)
@pytest.mark.parametrize("conditions", ["honour", "ignore", "refuse"])
def test_an_upload_if_absent_whose_reply_was_lost_is_known_as_ours(
    server: ScriptedS3, store: S3Store, conditions: str, operation: str
) -> None:
    server.conditions = conditions
    server.fail(operation, "lose", skip=1 if conditions == "refuse" else 0)
    data = upload(store, SIZES[operation], if_absent=True)
    assert server.faults[0].times == 0
    assert server.objects["p/m"].data == data
    assert server.count("abort") == 0


@pytest.mark.parametrize("operation", SIZES)
def test_an_upload_if_absent_that_was_done_twice_at_once_is_known_as_ours_by_its_412(
    server: ScriptedS3, store: S3Store, operation: str
) -> None:
    server.fail(operation, "lose")
    server.fail("head", "error", skip=1)  # of the look before the second try
    data = upload(store, SIZES[operation], if_absent=True)
    assert server.objects["p/m"].data == data


@pytest.mark.parametrize("operation", SIZES)
def test_of_two_uploads_if_absent_at_once_the_second_is_refused(
    server: ScriptedS3, store: S3Store, operation: str
) -> None:
    server.objects["p/m"] = StoredObject(b"another's")
    server.fail("head", "error", code="404", status=404)  # the look was before the other one wrote
    with pytest.raises(PreconditionFailed):
        upload(store, SIZES[operation], if_absent=True)
    assert server.objects["p/m"].data == b"another's"
    assert server.uploads == {}


def test_a_server_that_refuses_conditions_for_completions_only_keeps_them_for_puts(
    server: ScriptedS3, store: S3Store
) -> None:
    server.complete_conditions = "refuse"
    data = upload(store, SIZES["complete"], if_absent=True)
    assert server.objects["p/m"].data == data
    assert server.count("complete") == 2
    server.objects["p/n"] = StoredObject(b"another's")
    server.fail("head", "error", code="404", status=404)
    with pytest.raises(PreconditionFailed):
        store.put("n", b"ours", if_absent=True)
    assert store.properties.honours_if_absent is True


@pytest.mark.fault("S2", "of CompleteMultipartUpload: NoSuchUpload", promise=1)
def test_a_completion_whose_reply_was_lost_is_known_as_ours(server: ScriptedS3, store: S3Store) -> None:
    server.fail("complete", "lose")
    data = upload(store, 2 * PART_BYTES + 17)
    assert server.objects["p/m"].data == data
    assert server.count("complete") == 2
    assert server.count("abort") == 0


def test_an_upload_that_somebody_ended_is_an_error_and_not_another_s_object(server: ScriptedS3, store: S3Store) -> None:
    server.objects["p/m"] = StoredObject(b"another's")
    server.fail("complete", "gone")
    with pytest.raises(StorageError, match="unfinished upload of s3://bucket/p/m is gone") as caught:
        upload(store, 2 * PART_BYTES)
    assert not isinstance(caught.value, (ObjectMissing, StoreUnavailable))
    assert server.objects["p/m"].data == b"another's"


@pytest.mark.fault("S3", "200 with an error inside", promise=1)
def test_an_error_inside_a_200_is_an_error(server: ScriptedS3, store: S3Store) -> None:
    server.fail("complete", "error in 200", times=2)
    data = upload(store, 2 * PART_BYTES)
    assert server.objects["p/m"].data == data
    assert server.count("complete") == 3


@pytest.mark.fault("S2", "of a deletion", promise=1)
def test_a_deletion_whose_reply_was_lost_is_done(server: ScriptedS3, store: S3Store) -> None:
    store.put("m", b"x")
    server.fail("delete", "lose")
    store.delete("m")
    assert server.objects == {}


# -- what the server did with what it was given -----------------------------------------------


@pytest.mark.fault("S4", "any other bytes", promise=1)
@pytest.mark.parametrize("write", [lambda store: store.put("m", b"x"), lambda store: upload(store, 100)])
def test_a_server_that_stores_other_bytes_is_found_out(
    server: ScriptedS3, store: S3Store, write: Callable[[S3Store], object]
) -> None:
    server.fail("put", "frame")
    with pytest.raises(StorageError, match="bytes after") as caught:
        write(store)
    assert "aws-chunked" in caught.value.hint


def test_an_object_that_another_writer_replaced_is_told(server: ScriptedS3, store: S3Store) -> None:
    server.fail("put", "replace")
    with pytest.raises(StorageError, match="replaced by another writer"):
        store.put("m", b"another-s")


@pytest.mark.fault("S4", "aws-chunked framing", promise=1)
def test_nothing_is_sent_in_aws_chunked_framing(server: ScriptedS3, store: S3Store) -> None:
    store.put("m", b"x")
    upload(store, 2 * PART_BYTES)
    assert not any("aws-chunked" in headers.get("content-encoding", "") for headers in server.headers)
    assert not any("x-amz-trailer" in headers for headers in server.headers)
    assert not any("expect" in headers for headers in server.headers)


def test_each_try_is_one_request(server: ScriptedS3, hasty: S3Store) -> None:
    """Neither s3fs nor botocore tries again by itself."""
    server.fail("put", "error", times=1000, code="SlowDown", status=503)
    with pytest.raises(StoreUnavailable) as caught:
        hasty.put("m", b"x")
    tries = re.search(r"\((\d+) tries", str(caught.value))
    assert tries is not None
    assert server.count("put") in (int(tries[1]), int(tries[1]) - 1)  # the last may not have got out


# -- the lock on a backup -----------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["", "lose", "error"])
@pytest.mark.parametrize("conditions", ["honour", "ignore", "refuse"])
def test_of_runs_that_lock_a_backup_at_once_one_gets_it_whatever_the_server_makes_of_conditions(
    server: ScriptedS3, store: S3Store, conditions: str, fault: str
) -> None:
    server.conditions = conditions
    if fault:
        for operation in ("put", "list", "head"):
            server.fail(operation, fault, times=2, skip=1)
    barrier = threading.Barrier(3)
    outcomes: list[object] = []

    def run(number: int) -> None:
        process = LockProcess(
            host=f"host-{number}", boot_id=f"{number}", pid=1, pid_namespace="n", started="1", user="u"
        )
        claim = LockClaim(store, "nightly", verb="backup", times=LockTimes(life_s=60), process=process)
        barrier.wait(10)
        try:
            outcomes.append(claim.attempt())
        except BaseException as error:
            outcomes.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert [type(one) for one in outcomes if one is not None] == [Locked, Locked]
    assert len(outcomes) == 3
    assert not any("if-none-match" in headers for headers in server.headers)


# -- archives ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("storage_class", "restored", "by_head", "by_list"),
    [
        ("", "", False, False),
        ("STANDARD_IA", "", False, False),
        ("GLACIER_IR", "", False, False),
        ("GLACIER", "", True, True),
        ("DEEP_ARCHIVE", "", True, True),
        ("GLACIER", 'ongoing-request="true"', True, True),
        ("GLACIER", 'ongoing-request="false", expiry-date="Fri, 21 Dec 2029 00:00:00 GMT"', False, True),
    ],
)
def test_an_object_in_an_archive_is_known_by_its_facts(
    server: ScriptedS3, store: S3Store, storage_class: str, restored: str, by_head: bool, by_list: bool
) -> None:
    server.objects["p/there"] = StoredObject(b"data", storage_class=storage_class, restored=restored)
    assert store.head("there").is_archived is by_head
    assert [one.is_archived for one in store.list("")] == [by_list]


# -- what interrupted writers left ------------------------------------------------------------


@pytest.mark.parametrize("ignores_prefixes", [False, True])
def test_unfinished_uploads_are_found_by_pages_and_those_of_other_folders_stay(
    server: ScriptedS3, store: S3Store, ignores_prefixes: bool
) -> None:
    server.page_size = 3
    server.ignores_prefixes = ignores_prefixes
    others = ["p/nightly", "p/nightly-2/a", "nightly/a", "p/other/nightly/a"]
    keys = [f"p/nightly/topics/{number}" for number in range(7)] + ["p/nightly/topics/0"]
    server.uploads.update({f"id-{number}": (key, {}, {}) for number, key in enumerate(keys + others)})
    server.fail("list_uploads", "lose")
    server.fail("abort", "error", code="SlowDown", status=503)
    assert store.remove_leftovers("nightly") == 8
    assert sorted(key for key, _, _ in server.uploads.values()) == sorted(others)


@pytest.mark.parametrize(
    "fault",
    [
        {"code": "AccessDenied", "status": 403},
        {"code": "NotImplemented", "status": 501},
        {"code": "MethodNotAllowed", "status": 405},
        {"code": "SlowDown", "status": 503, "times": 10_000},
    ],
    ids=lambda fault: str(fault["code"]),
)
@pytest.mark.parametrize("operation", ["list_uploads", "abort"])
def test_unfinished_uploads_that_can_not_be_ended_are_told_and_fail_nothing(
    server: ScriptedS3, hasty: S3Store, caplog: pytest.LogCaptureFixture, operation: str, fault: dict[str, object]
) -> None:
    server.uploads["id"] = ("p/nightly/a", {}, {})
    server.fail(operation, "error", **fault)
    assert hasty.remove_leftovers("nightly") == 0
    assert "unfinished uploads of interrupted runs may stay" in caplog.text
    assert "id" in server.uploads


def test_an_unfinished_upload_that_ended_meanwhile_does_not_keep_the_others(server: ScriptedS3, store: S3Store) -> None:
    server.uploads.update({f"id-{number}": (f"p/nightly/{number}", {}, {}) for number in range(3)})
    server.fail("abort", "lose")
    assert store.remove_leftovers("nightly") == 2
    assert server.uploads == {}


def test_a_listing_of_uploads_that_never_ends_is_given_up(server: ScriptedS3, store: S3Store) -> None:
    server.page_size = 2
    server.forgets_tokens = True
    server.uploads.update({f"id-{number}": (f"p/nightly/{number}", {}, {}) for number in range(5)})
    assert store.remove_leftovers("nightly") == 2


# -- uploads that fail --------------------------------------------------------------------------


@pytest.mark.fault("S8", "parts of a failed upload", promise=1)
def test_a_failed_upload_tells_the_server_to_forget_its_parts(server: ScriptedS3, store: S3Store) -> None:
    server.fail("upload_part", "error", skip=1, times=100, code="AccessDenied", status=403)
    with pytest.raises(AccessDenied):
        upload(store, 6 * PART_BYTES)
    assert server.uploads == {}
    assert server.objects == {}


def test_an_upload_aborted_in_an_outage_ends_soon(server: ScriptedS3) -> None:
    store = store_at(server.endpoint_url, deadline_s=600.0)
    begun = store.open_upload("m")
    server.fail("upload_part", "error", times=10**6, code="SlowDown", status=503)
    server.fail("abort", "error", times=10**6, code="SlowDown", status=503)
    begun.write(b"x" * (2 * PART_BYTES + 1))
    started = time.monotonic()
    begun.abort()
    begun.abort()
    assert time.monotonic() - started < 12
    requests = len(server.requests)
    store.close()
    assert len(server.requests) <= requests + 2  # no part is still being tried


def test_parts_are_in_flight_while_the_caller_goes_on_and_never_more_than_two(
    server: ScriptedS3, store: S3Store
) -> None:
    begun = store.open_upload("m")
    server.fail("upload_part", "hang", times=2)
    piece = bytes(PART_BYTES)
    for _ in range(3):
        begun.write(piece)  # two parts hang, one is collected: no wait yet
    done = threading.Event()

    def write_more() -> None:
        begun.write(piece)
        done.set()

    thread = threading.Thread(target=write_more)
    thread.start()
    assert not done.wait(0.1)
    thread.join(10)  # the hanging ones are given up after the read timeout, and tried again
    assert begun.commit().size_bytes == 4 * PART_BYTES


@pytest.mark.parametrize("part_bytes", [5 * 1024**2, 16 * 1024**2])
def test_parts_grow_so_that_ten_thousand_never_run_out_and_stay_small(part_bytes: int) -> None:
    sizes = [part_bytes << (number // PARTS_PER_SIZE) for number in range(10_000)]
    assert sum(sizes) >= 4 * 1024**4
    needed = itertools.accumulate(sizes)
    largest_for_50_gib = next(size for size, total in zip(sizes, needed, strict=True) if total >= 50 * 1024**3)
    assert largest_for_50_gib <= 64 * 1024**2


# -- listings -----------------------------------------------------------------------------------


def test_a_listing_goes_on_over_all_pages_in_key_order_whatever_the_server_s(
    server: ScriptedS3, store: S3Store
) -> None:
    names = [f"topics/orders{suffix}/{number:03d}" for suffix in ("", "-v2", ".x") for number in range(20)]
    for name in names:
        server.objects[f"p/{name}"] = StoredObject(b"x")
    server.objects["p/"] = StoredObject(b"")  # a console's folder marker
    server.objects["p/topics/"] = StoredObject(b"")
    server.objects["other/prefix"] = StoredObject(b"")
    server.page_size = 7
    for server.last_first in (False, True):
        assert [info.key for info in store.list("")] == sorted(names)


@pytest.mark.fault("S3", "a listing that breaks off", promise=2)
def test_a_listing_that_breaks_off_is_an_error_and_not_a_short_list(server: ScriptedS3, store: S3Store) -> None:
    for number in range(10):
        server.objects[f"p/{number}"] = StoredObject(b"x")
    server.page_size, server.forgets_tokens = 3, True
    with pytest.raises(StorageError, match="breaks off after 3 objects"):
        list(store.list(""))


# -- errors that can't get better ---------------------------------------------------------------

FINAL = [
    ("InvalidAccessKeyId", 403, AccessDenied, "access key is not known", "access_key"),
    ("SignatureDoesNotMatch", 403, AccessDenied, "signature is wrong", "secret_key"),
    ("AccessDenied", 403, AccessDenied, "the server's words", "rights"),
    ("ExpiredToken", 400, AccessDenied, "session token has expired", "credentials"),
    ("RequestTimeTooSkewed", 403, AccessDenied, r"your clock is 7\d\d\d s behind the server", "clock"),
    ("NoSuchBucket", 404, StorageError, "bucket bucket does not exist at http://127.0.0.1", "storage.bucket"),
    ("InvalidBucketName", 400, StorageError, "bucket is no bucket name", "storage.bucket"),
    ("AuthorizationHeaderMalformed", 400, StorageError, "the server's words", "storage.region"),
    ("NotImplemented", 501, StorageError, "the server's words", "can't do this"),
    ("QuotaExceeded", 403, StoreFull, "the server's words", "make room"),
    ("XMinioStorageFull", 507, StoreFull, "the server's words", "make room"),
    ("InsufficientStorage", 507, StoreFull, "the server's words", "make room"),
    ("EntityTooLarge", 400, StorageError, "the server's words", ""),
    ("MethodNotAllowed", 405, StorageError, "the server's words", ""),
]


@pytest.mark.fault("S6", "denied, no such bucket, wrong clock: one line", promise=4)
@pytest.mark.parametrize(("code", "status", "kind", "words", "hint"), FINAL, ids=[one[0] for one in FINAL])
def test_what_cannot_get_better_is_one_clear_line_after_one_try(
    server: ScriptedS3, store: S3Store, code: str, status: int, kind: type[KbrError], words: str, hint: str
) -> None:
    server.clock_off_s = 7200
    server.fail("put", "error", times=100, code=code, status=status, message="the server's words")
    with pytest.raises(kind) as caught:
        store.put("m", b"x")
    assert re.search(words, str(caught.value))
    assert hint in caught.value.hint
    assert "\n" not in str(caught.value)
    assert server.count("put") == 1


def test_another_writer_at_the_same_moment_is_temporary(server: ScriptedS3, store: S3Store) -> None:
    server.fail("put", "error", code="ConditionalRequestConflict", status=409)
    store.put("m", b"x", if_absent=True)


def test_an_unreachable_endpoint_is_told_fast_with_its_cause() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{unused.getsockname()[1]}"
        store = store_at(endpoint)
        started = time.monotonic()
        with pytest.raises(StoreUnavailable) as caught:
            store.check()
        assert time.monotonic() - started < 20  # it would go on for a minute and more
        assert endpoint in str(caught.value)
        assert "refused" in str(caught.value).lower()
        store.close()


def test_an_unknown_host_is_told_with_its_cause() -> None:
    store = store_at("http://no-such-host.invalid:9000")
    with pytest.raises(StoreUnavailable, match=r"no-such-host\.invalid") as caught:
        store.check()
    assert "name" in str(caught.value).lower()
    store.close()


def test_a_server_that_never_answers_is_told_within_the_check_s_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        store = store_at(f"http://127.0.0.1:{silent.getsockname()[1]}", read_timeout_s=60.0)
        started = time.monotonic()
        with pytest.raises(StoreUnavailable, match="no answer in 1 s"):
            store.check()
        assert time.monotonic() - started < 20  # it would go on for a minute and more
        store.close()


def test_a_server_that_takes_nothing_is_given_up_long_before_the_deadline() -> None:
    accepted = []
    with socket.create_server(("127.0.0.1", 0)) as silent:

        def accept() -> None:
            while True:
                try:
                    accepted.append(silent.accept()[0])  # never read from
                except OSError:
                    return

        threading.Thread(target=accept, daemon=True).start()
        store = store_at(f"http://127.0.0.1:{silent.getsockname()[1]}", deadline_s=4.0, read_timeout_s=0.5)
        with pytest.raises(StoreUnavailable):
            store.put("m", bytes(32 * 1024 * 1024))
        assert len(accepted) > 1  # it was tried again
        store.close()
        silent.shutdown(socket.SHUT_RDWR)
    for connection in accepted:
        connection.close()


def test_a_server_without_tls_is_told(server: ScriptedS3) -> None:
    store = store_at(server.endpoint_url.replace("http://", "https://"))
    with pytest.raises(StorageError, match="no TLS connection to https://127") as caught:
        store.check()
    assert "http://" in caught.value.hint
    assert not isinstance(caught.value, StoreUnavailable)
    store.close()


def test_a_certificate_that_nobody_vouches_for_is_told_and_not_tried_again() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(SUPPORT / "self-signed.pem")
    with ScriptedS3() as server:
        server.speak_tls(context)
        endpoint = server.endpoint_url.replace("http://", "https://")
        store = store_at(endpoint, deadline_s=60.0, check_deadline_s=60.0, read_timeout_s=10.0)
        started = time.monotonic()
        with pytest.raises(StorageError, match="(?i)certificate") as caught:
            store.check()
        assert "ca_bundle" in caught.value.hint
        assert time.monotonic() - started < 10
        store.close()
        trusting = store_at(endpoint, ca_bundle=str(SUPPORT / "self-signed.pem"))
        trusting.check()
        trusting.close()


def test_a_run_outlives_the_servers_certificate_and_its_ca(tmp_path: Path) -> None:
    old, new = Authority(tmp_path / "old"), Authority(tmp_path / "new", "new-ca")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(old.sign("server").both)
    bundle = tmp_path / "ca.pem"
    bundle.write_bytes(old.certificate.read_bytes())
    with ScriptedS3() as server:
        server.speak_tls(context)
        store = store_at(server.endpoint_url.replace("http://", "https://"), ca_bundle=str(bundle), deadline_s=60.0, read_timeout_s=10.0)
        store.put("m", b"1")
        # the connection is closed, and whoever answers the next one is not known yet
        context.load_cert_chain(new.sign("server").both)
        server.fail("get", "drop")
        renewed = threading.Timer(0.3, lambda: bundle.write_bytes(new.certificate.read_bytes()))
        renewed.start()
        assert store.get("m", max_bytes=10) == b"1"
        renewed.join()
        assert not store._client._authorities.changed
        store.close()


def test_missing_credentials_are_told(server: ScriptedS3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    store = store_at(server.endpoint_url, access_key=None, secret_key=None)
    with pytest.raises(AccessDenied, match=r"no credentials for http://127"):
        store.check()
    assert server.requests == []
    store.close()


def test_no_message_and_no_repr_holds_a_secret(server: ScriptedS3, caplog: pytest.LogCaptureFixture) -> None:
    store = store_at(server.endpoint_url, session_token="a-secret-token")
    for code in ("SignatureDoesNotMatch", "InternalError", "AccessDenied"):
        server.fail("put", "error", code=code, status=403 if code != "InternalError" else 500)
    with caplog.at_level("DEBUG", logger="kbr"):
        for _ in range(2):
            with pytest.raises(KbrError) as caught:
                store.put("m", b"x")
            assert SECRET not in f"{caught.value!r} {caught.value.hint} {caught.value.context}"
    assert SECRET not in caplog.text
    options = StorageOptions(url="ftp://user:a-very-secret-key@host/x", secret_key=SECRET, session_token=SECRET)
    assert SECRET not in f"{options!r} {options}"
    store.close()


@pytest.mark.parametrize(
    "options",
    [
        {"url": "s3://"},
        {"url": "s3://key:a-very-secret-key@bucket/p"},
        {"url": "s3://bucket/a/../b"},
        {"endpoint_url": "localhost:9000"},
        {"endpoint_url": "http://key:a-very-secret-key@localhost:9000"},
        {"part_bytes": 1000},
    ],
    ids=str,
)
def test_settings_that_cannot_work_are_refused_before_any_request(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError) as caught:
        store_at(**{"endpoint_url": "http://127.0.0.1:1", **options})  # type: ignore[arg-type]
    assert SECRET not in str(caught.value)


def test_an_unknown_scheme_is_told() -> None:
    with pytest.raises(ConfigError, match="nosuch://"):
        open_store(StorageOptions(url="nosuch://place"))


def test_a_closed_store_makes_no_request(server: ScriptedS3) -> None:
    store = store_at(server.endpoint_url)
    store.put("m", b"x")
    store.close()
    with pytest.raises(StorageError, match="closed"):
        store.get("m", max_bytes=1)


def test_many_threads_may_make_the_first_request_at_once(server: ScriptedS3) -> None:
    store = store_at(server.endpoint_url)
    errors: list[BaseException] = []

    def run(number: int) -> None:
        try:
            store.put(f"m{number}", b"x")
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert errors == []
    assert len(server.objects) == 8

    store.close()


def test_options_are_hashable_and_picklable() -> None:
    options = StorageOptions(url="s3://bucket/p", secret_key=SECRET, extra={"token": "x"})
    assert hash(options) == hash(pickle.loads(pickle.dumps(options)))
    assert pickle.loads(pickle.dumps(options)) == options
