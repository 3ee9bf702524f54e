"""One conformance suite for every store: what kbr.storage.base promises."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from kbr.errors import ObjectMissing, PreconditionFailed, StorageError, UsageError
from kbr.storage import ObjectStore, StorageOptions, open_store

PART_BYTES = 5 * 1024 * 1024  # the least that S3 takes


@pytest.fixture(params=["memory", "folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    """An empty store of each kind."""
    if request.param == "memory":
        options = StorageOptions(url=f"memory://{request.node.name}")
    elif request.param == "folder":
        options = StorageOptions(url=str(tmp_path / "not" / "yet" / "there"))
    else:
        s3 = request.getfixturevalue("s3")
        options = StorageOptions(
            url=f"s3://{s3.make_bucket()}/some/prefix",
            endpoint_url=s3.endpoint_url,
            access_key=s3.access_key,
            secret_key=s3.secret_key,
            region="us-east-1",
            path_style=True,
            part_bytes=PART_BYTES,
            deadline_s=20,
        )
    opened = open_store(options)
    request.addfinalizer(opened.close)
    return opened


def _keys(store: ObjectStore, prefix: str = "") -> list[str]:
    return [info.key for info in store.list(prefix)]


def test_an_empty_place_lists_nothing_and_is_usable(store: ObjectStore) -> None:
    store.check()
    assert _keys(store) == []


def test_what_is_put_is_got(store: ObjectStore) -> None:
    info = store.put("a/b.json", b"hello", metadata={"kbr-writer": "me"})
    assert (info.key, info.size_bytes) == ("a/b.json", 5)
    assert store.get("a/b.json", max_bytes=5) == b"hello"
    assert store.head("a/b.json").size_bytes == 5


def test_a_put_replaces_the_whole_object(store: ObjectStore) -> None:
    store.put("m", b"a long first version")
    store.put("m", b"short")
    assert store.get("m", max_bytes=100) == b"short"


def test_a_put_if_absent_never_replaces(store: ObjectStore) -> None:
    store.put("m", b"first", if_absent=True)
    with pytest.raises(PreconditionFailed):
        store.put("m", b"second", if_absent=True)
    assert store.get("m", max_bytes=100) == b"first"


def test_an_object_larger_than_expected_is_refused(store: ObjectStore) -> None:
    store.put("m", b"0123456789")
    with pytest.raises(StorageError, match="10 bytes"):
        store.get("m", max_bytes=9)


def test_empty_objects_are_objects(store: ObjectStore) -> None:
    store.put("empty", b"")
    assert store.get("empty", max_bytes=0) == b""
    assert store.read_range("empty", 0, 0) == b""
    assert _keys(store) == ["empty"]


@pytest.mark.parametrize("operation", ["get", "read_range", "head"])
def test_what_is_not_there_is_said_to_be_missing(store: ObjectStore, operation: str) -> None:
    store.put("there", b"x")
    calls = {
        "get": lambda: store.get("no/such", max_bytes=10),
        "read_range": lambda: store.read_range("no/such", 0, 1),
        "head": lambda: store.head("no/such"),
    }
    with pytest.raises(ObjectMissing):
        calls[operation]()


def test_a_range_is_exact_or_an_error(store: ObjectStore) -> None:
    store.put("m", b"0123456789")
    assert store.read_range("m", 0, 10) == b"0123456789"
    assert store.read_range("m", 3, 4) == b"3456"
    for start, length in ((3, 8), (9, 2), (10, 1), (100, 5)):
        with pytest.raises(StorageError):
            store.read_range("m", start, length)


def test_deleting_again_is_fine(store: ObjectStore) -> None:
    store.put("m", b"x")
    store.delete("m")
    store.delete("m")
    assert _keys(store) == []


def test_a_listing_is_recursive_sorted_and_complete(store: ObjectStore) -> None:
    names = [f"t/{number % 7}/segment-{number:05d}" for number in range(1100)]
    threads = [
        threading.Thread(target=lambda part: [store.put(name, b"x") for name in part], args=(names[start::8],))
        for start in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store.put("other", b"x")
    assert _keys(store, "t/") == sorted(names)
    assert _keys(store, "t/3/segment-000") == sorted(name for name in names if name.startswith("t/3/segment-000"))
    assert len(_keys(store)) == 1101


@pytest.mark.parametrize(
    "size", [0, 10, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, 3 * PART_BYTES + 17], ids=lambda size: f"{size}B"
)
def test_an_upload_appears_whole_and_only_at_its_commit(store: ObjectStore, size: int) -> None:
    data = os.urandom(size)
    upload = store.open_upload("up/load", metadata={"kbr-writer": "w"})
    for start in range(0, size, 1_000_003):
        upload.write(memoryview(data)[start : start + 1_000_003])
    assert _keys(store) == []
    assert upload.commit().size_bytes == size
    assert store.get("up/load", max_bytes=size) == data
    assert _keys(store) == ["up/load"]


@pytest.mark.parametrize("size", [10, 2 * PART_BYTES])
def test_an_aborted_upload_leaves_nothing(store: ObjectStore, size: int) -> None:
    upload = store.open_upload("up")
    upload.write(b"x" * size)
    upload.abort()
    upload.abort()
    assert _keys(store) == []
    with pytest.raises(StorageError):
        upload.write(b"more")
    with pytest.raises(StorageError):
        upload.commit()


def test_a_committed_upload_is_over_and_stays(store: ObjectStore) -> None:
    upload = store.open_upload("up")
    upload.write(b"x")
    upload.commit()
    with pytest.raises(StorageError):
        upload.write(b"more")
    upload.abort()
    assert store.get("up", max_bytes=1) == b"x"


def test_uploads_at_the_same_time_do_not_meet(store: ObjectStore) -> None:
    bodies = {f"k/{number}": os.urandom(PART_BYTES + number) for number in range(6)}
    errors: list[BaseException] = []

    def run(key: str) -> None:
        try:
            upload = store.open_upload(key)
            for start in range(0, len(bodies[key]), 700_001):
                upload.write(bodies[key][start : start + 700_001])
            upload.commit()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(key,)) for key in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    for key, body in bodies.items():
        assert store.get(key, max_bytes=len(body)) == body


@pytest.mark.parametrize("key", ["with space", "plus+and%20percent", "ünï/cödé", "a=b/partition=3", "~tilde'quote"])
def test_odd_keys_stay_themselves(store: ObjectStore, key: str) -> None:
    store.put(key, key.encode())
    assert _keys(store) == [key]
    assert store.get(key, max_bytes=100) == key.encode()


@pytest.mark.parametrize(
    "key", ["", "/abs", "a//b", "../up", "a/../b", "a/.", ".", "nul\0", "back\\slash", "line\nbreak", "x" * 2000]
)
def test_keys_that_could_leave_the_root_are_refused(store: ObjectStore, key: str) -> None:
    calls = [
        lambda: store.put(key, b""),
        lambda: store.open_upload(key),
        lambda: store.get(key, max_bytes=1),
        lambda: store.head(key),
        lambda: store.delete(key),
    ]
    for call in calls:
        with pytest.raises(UsageError):
            call()
