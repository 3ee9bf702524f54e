"""What every store promises (kbr.storage.base), as tests: one class, which each store's tests are a subclass of."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import pytest

from kbr.errors import ObjectMissing, PreconditionFailed, StorageError, UsageError
from kbr.storage import ObjectStore

PART_BYTES = 5 * 1024 * 1024  # the least that S3 takes
Fill = Callable[[Sequence[str]], None]


def keys_of(store: ObjectStore, prefix: str = "") -> list[str]:
    return [info.key for info in store.list(prefix)]


def at_the_same_time(count: int, function: Callable[[int], object]) -> list[object]:
    """What ``function(0)`` … ``function(count - 1)`` return or raise, each in a thread of its own."""
    results: list[object] = [None] * count
    barrier = threading.Barrier(count)

    def run(number: int) -> None:
        barrier.wait(10)
        try:
            results[number] = function(number)
        except Exception as error:
            results[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    return results


class ObjectStoreConformance:
    """A subclass has a fixture ``store``: an empty one; and its ``row`` on the page of compatibility, if it has one."""

    row: ClassVar[Any] = ""

    def test_an_empty_place_lists_nothing_and_is_usable(self, store: ObjectStore) -> None:
        store.check()
        assert keys_of(store) == []

    @pytest.mark.compatibility(column="commit")
    def test_what_is_put_is_got(self, store: ObjectStore) -> None:
        info = store.put("a/b.json", b"hello", metadata={"kbr-writer": "me"})
        assert (info.key, info.size_bytes) == ("a/b.json", 5)
        assert store.get("a/b.json", max_bytes=5) == b"hello"
        assert store.head("a/b.json").size_bytes == 5

    @pytest.mark.compatibility(column="commit")
    def test_a_put_replaces_the_whole_object(self, store: ObjectStore) -> None:
        store.put("m", b"a long first version")
        store.put("m", b"short")
        assert store.get("m", max_bytes=100) == b"short"

    @pytest.mark.compatibility(column="put if absent")
    def test_a_put_if_absent_never_replaces(self, store: ObjectStore) -> None:
        store.put("m", b"first", if_absent=True)
        with pytest.raises(PreconditionFailed):
            store.put("m", b"second", if_absent=True)
        assert store.get("m", max_bytes=100) == b"first"

    def test_an_object_larger_than_expected_is_refused(self, store: ObjectStore) -> None:
        store.put("m", b"0123456789")
        with pytest.raises(StorageError, match="10 bytes"):
            store.get("m", max_bytes=9)

    def test_empty_objects_are_objects(self, store: ObjectStore) -> None:
        store.put("empty", b"")
        assert store.get("empty", max_bytes=0) == b""
        assert store.read_range("empty", 0, 0) == b""
        assert keys_of(store) == ["empty"]

    @pytest.mark.parametrize("operation", ["get", "read_range", "head"])
    def test_what_is_not_there_is_said_to_be_missing(self, store: ObjectStore, operation: str) -> None:
        store.put("there", b"x")
        calls = {
            "get": lambda: store.get("no/such", max_bytes=10),
            "read_range": lambda: store.read_range("no/such", 0, 1),
            "head": lambda: store.head("no/such"),
        }
        with pytest.raises(ObjectMissing):
            calls[operation]()

    @pytest.mark.compatibility(column="range reads")
    def test_a_range_is_exact_or_an_error(self, store: ObjectStore) -> None:
        store.put("m", b"0123456789")
        assert store.read_range("m", 0, 10) == b"0123456789"
        assert store.read_range("m", 3, 4) == b"3456"
        for start, length in ((3, 8), (9, 2), (10, 1), (100, 5)):
            with pytest.raises(StorageError):
                store.read_range("m", start, length)

    @pytest.mark.compatibility(column="delete")
    def test_deleting_again_is_fine(self, store: ObjectStore) -> None:
        store.put("m", b"x")
        store.delete("m")
        store.delete("m")
        assert keys_of(store) == []

    @pytest.mark.compatibility(column="listing beyond 1,000 keys")
    def test_a_listing_is_recursive_sorted_and_complete(self, store: ObjectStore, fill: Fill) -> None:
        """Beyond the 1,000 keys that a page of S3 holds, twice."""
        names = [f"t/{number % 7}/segment-{number:05d}" for number in range(2500)]
        fill([*names, "other"])
        assert keys_of(store, "t/") == sorted(names)
        assert keys_of(store, "t/3/segment-000") == sorted(name for name in names if name.startswith("t/3/segment-000"))
        assert len(keys_of(store)) == 2501

    @pytest.fixture
    def fill(self, store: ObjectStore) -> Fill:
        """Writes thousands of objects of a byte each."""

        def write(keys: Sequence[str]) -> None:
            with ThreadPoolExecutor(8) as writers:
                list(writers.map(lambda key: store.put(key, b"x"), keys))

        return write

    @pytest.mark.compatibility(column="multipart")
    @pytest.mark.parametrize(
        "size", [0, 10, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, 3 * PART_BYTES + 17], ids=lambda size: f"{size}B"
    )
    def test_an_upload_appears_whole_and_only_at_its_commit(self, store: ObjectStore, size: int) -> None:
        data = os.urandom(size)
        upload = store.open_upload("up/load", metadata={"kbr-writer": "w"})
        for start in range(0, size, 1_000_003):
            upload.write(memoryview(data)[start : start + 1_000_003])
        assert keys_of(store) == []
        assert upload.commit().size_bytes == size
        assert store.get("up/load", max_bytes=size) == data
        assert keys_of(store) == ["up/load"]

    @pytest.mark.parametrize("size", [10, 2 * PART_BYTES])
    def test_an_aborted_upload_leaves_nothing(self, store: ObjectStore, size: int) -> None:
        upload = store.open_upload("up")
        upload.write(b"x" * size)
        upload.abort()
        upload.abort()
        assert keys_of(store) == []
        with pytest.raises(StorageError):
            upload.write(b"more")
        with pytest.raises(StorageError):
            upload.commit()

    def test_a_committed_upload_is_over_and_stays(self, store: ObjectStore) -> None:
        upload = store.open_upload("up")
        upload.write(b"x")
        upload.commit()
        with pytest.raises(StorageError):
            upload.write(b"more")
        with pytest.raises(StorageError):
            upload.commit()
        upload.abort()
        assert store.get("up", max_bytes=1) == b"x"

    @pytest.mark.compatibility(column="multipart")
    def test_uploads_at_the_same_time_do_not_meet(self, store: ObjectStore) -> None:
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

    @pytest.mark.compatibility(column="odd keys")
    @pytest.mark.parametrize("key", ["with space", "plus+and%20percent", "ünï/cödé", "a=b/partition=3", "~tilde'quote"])
    def test_odd_keys_stay_themselves(self, store: ObjectStore, key: str) -> None:
        store.put(key, key.encode())
        assert keys_of(store) == [key]
        assert store.get(key, max_bytes=100) == key.encode()

    @pytest.mark.parametrize(
        "key",
        [
            "",
            "/abs",
            "a//b",
            "../up",
            "a/../b",
            "a/.",
            ".",
            "nul\0",
            "back\\slash",
            "line\nbreak",
            "x" * 2000,
            "\udcff",
        ],
    )
    def test_keys_that_could_leave_the_root_are_refused(self, store: ObjectStore, key: str) -> None:
        calls = [
            lambda: store.put(key, b""),
            lambda: store.open_upload(key),
            lambda: store.get(key, max_bytes=1),
            lambda: store.read_range(key, 0, 1),
            lambda: store.head(key),
            lambda: store.delete(key),
        ]
        for call in calls:
            with pytest.raises(UsageError):
                call()

    @pytest.mark.compatibility(column="commit")
    def test_an_upload_takes_the_place_of_the_older_object_only_at_its_commit(self, store: ObjectStore) -> None:
        store.put("m", b"older")
        upload = store.open_upload("m")
        upload.write(b"newer")
        assert store.get("m", max_bytes=5) == b"older"
        upload.commit()
        assert store.get("m", max_bytes=5) == b"newer"

    @pytest.mark.compatibility(column="commit")
    def test_a_reader_never_sees_a_half_replaced_object(self, store: ObjectStore) -> None:
        versions = {bytes([number]) * (200_000 + number) for number in range(4)}
        store.put("m", min(versions))
        done = threading.Event()

        def read(_number: int) -> set[bytes]:
            seen = set()
            while not done.is_set():
                seen.add(store.get("m", max_bytes=1_000_000))
            return seen

        def write_or_read(number: int) -> set[bytes]:
            if number:
                return read(number)
            try:
                for version in itertools.islice(itertools.cycle(sorted(versions)), 30):
                    store.put("m", version)
            finally:
                done.set()
            return set()

        for seen in at_the_same_time(3, write_or_read):
            assert isinstance(seen, set), seen
            assert seen <= versions or not store.properties.replaces_whole

    def test_of_several_conditional_writers_one_wins(self, store: ObjectStore) -> None:
        outcomes = at_the_same_time(6, lambda number: store.put("m", b"%d" % number, if_absent=True))
        winners = [number for number, one in enumerate(outcomes) if not isinstance(one, Exception)]
        assert winners
        if store.properties.honours_if_absent:
            assert len(winners) == 1
            assert store.get("m", max_bytes=1) == b"%d" % winners[0]
            assert all(isinstance(one, PreconditionFailed) for one in outcomes if isinstance(one, Exception))

    @pytest.mark.compatibility(column="put if absent")
    @pytest.mark.parametrize("size", [0, 10, 2 * PART_BYTES + 1], ids=lambda size: f"{size}B")
    def test_an_upload_if_absent_never_takes_the_place_of_an_object(self, store: ObjectStore, size: int) -> None:
        early = store.open_upload("up", if_absent=True)
        late = store.open_upload("up", if_absent=True)
        for upload in (early, late):
            upload.write(b"x" * size)
        assert early.commit().size_bytes == size
        with pytest.raises(PreconditionFailed, match="already there"):
            late.commit()
        after = store.open_upload("up", if_absent=True)
        after.write(b"another's")
        with pytest.raises(PreconditionFailed):
            after.commit()
        assert store.get("up", max_bytes=size) == b"x" * size
        assert keys_of(store) == ["up"]

    @pytest.mark.parametrize("size", [10, PART_BYTES + 1], ids=lambda size: f"{size}B")
    def test_of_several_uploads_if_absent_one_wins(self, store: ObjectStore, size: int) -> None:
        def write(number: int) -> None:
            upload = store.open_upload("up", if_absent=True)
            upload.write(b"%d" % number * size)
            upload.commit()

        outcomes = at_the_same_time(4, write)
        winners = [number for number, one in enumerate(outcomes) if not isinstance(one, Exception)]
        assert winners
        if store.properties.honours_if_absent:
            assert len(winners) == 1
            assert store.get("up", max_bytes=size) == b"%d" % winners[0] * size
            assert all(isinstance(one, PreconditionFailed) for one in outcomes if isinstance(one, Exception))

    @pytest.mark.compatibility(column="leftovers of killed uploads")
    def test_removing_leftovers_touches_no_object_and_nothing_of_other_folders(self, store: ObjectStore) -> None:
        names = ["b/.kbr-tmp", "b/m", "b/topics/.hidden", "b2/m", "m"]
        for name in names:
            store.put(name, b"x")
        assert store.remove_leftovers("b") == 0
        assert store.remove_leftovers("not-there") == 0
        assert keys_of(store) == sorted(names)
        for folder in ("", "a/b", "..", "b/", "/"):
            with pytest.raises(UsageError):
                store.remove_leftovers(folder)

    @pytest.mark.compatibility(column="metadata")
    def test_metadata_is_kept_where_the_store_says_so(self, store: ObjectStore) -> None:
        store.put("put", b"x", metadata={"kbr-writer": "me"})
        upload = store.open_upload("up", metadata={"kbr-writer": "me", "kbr-sha256": "ab" * 32})
        upload.write(b"x" * (PART_BYTES + 1))
        upload.commit()
        if store.properties.keeps_metadata:
            assert store.head("put").metadata["kbr-writer"] == "me"
            assert store.head("up").metadata["kbr-sha256"] == "ab" * 32

    def test_objects_know_when_they_were_written(self, store: ObjectStore) -> None:
        info = store.put("m", b"x")
        assert info.modified_at_ms is not None
        (listed,) = store.list("")
        assert listed.modified_at_ms is not None
        # Ceph lists milliseconds, and has seconds for a HEAD
        assert listed.modified_at_ms // 1000 == info.modified_at_ms // 1000

    def test_an_upload_is_of_no_use_after_its_first_error(self, store: ObjectStore) -> None:
        upload = store.open_upload("up")
        upload.write(b"x")
        with pytest.raises(TypeError):
            upload.write(None)  # type: ignore[arg-type]
        with pytest.raises(StorageError):
            upload.write(b"more")
        with pytest.raises(StorageError):
            upload.commit()
        upload.abort()
        assert keys_of(store) == []

    def test_different_threads_may_write_in_turn(self, store: ObjectStore) -> None:
        upload = store.open_upload("up")
        for number in range(3):
            thread = threading.Thread(target=upload.write, args=(b"%d" % number,))
            thread.start()
            thread.join(10)
        upload.commit()
        assert store.get("up", max_bytes=3) == b"012"

    def test_memory_that_is_used_again_after_write_does_not_change_the_object(self, store: ObjectStore) -> None:
        buffer = bytearray(b"first")
        upload = store.open_upload("up")
        upload.write(memoryview(buffer))
        buffer[:] = b"other"
        upload.write(memoryview(buffer))
        upload.commit()
        assert store.get("up", max_bytes=10) == b"firstother"

    def test_a_listing_is_in_order_of_the_whole_keys(self, store: ObjectStore) -> None:
        names = ["a-b/1", "a.b/1", "a/b/1", "a/b-c", "a/b.c", "a0", "b", "ü/1"]
        for name in names:
            store.put(name, b"x")
        assert keys_of(store) == sorted(names)
        assert keys_of(store, "a") == sorted(names)[:6]
        assert keys_of(store, "a/") == ["a/b-c", "a/b.c", "a/b/1"]
        assert keys_of(store, "a/b/") == ["a/b/1"]
        assert keys_of(store, "a/b/1") == ["a/b/1"]
        assert keys_of(store, "a/b/1/") == []
        assert keys_of(store, "nothing/here") == []

    def test_a_folder_is_no_object(self, store: ObjectStore) -> None:
        store.put("a/b", b"x")
        for call in (lambda: store.head("a"), lambda: store.get("a", max_bytes=9), lambda: store.head("a/b/c")):
            with pytest.raises(ObjectMissing):
                call()

    @pytest.mark.parametrize("prefix", ["/", "/etc/", "../", "..//", "a//b", "a/../b/", "nul\0", "back\\slash/"])
    def test_no_listing_leaves_the_root(self, store: ObjectStore, prefix: str) -> None:
        with pytest.raises(UsageError):
            store.list(prefix)

    @pytest.mark.parametrize(("start", "length"), [(-1, 1), (0, -1)])
    def test_ranges_before_the_object_are_refused(self, store: ObjectStore, start: int, length: int) -> None:
        store.put("m", b"0123456789")
        with pytest.raises(UsageError):
            store.read_range("m", start, length)
