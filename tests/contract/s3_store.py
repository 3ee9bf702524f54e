"""What the S3 store promises on any server, and what servers do otherwise: for subclasses, each with a real server."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from kbr.errors import AccessDenied, KbrError, StorageError
from kbr.storage import ObjectStore, StorageOptions, open_store
from kbr.storage.fsspec_store import S3fsClient
from kbr.storage.s3 import S3Store
from kbr.storage.s3_errors import S3Failure
from tests.contract.object_store import PART_BYTES, Fill, ObjectStoreConformance
from tests.support.s3_proxy import S3Proxy
from tests.support.s3_servers import listening
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from tests.conftest import S3Place


class _KeptClient:
    """One for all tests of a server: to make one takes 0.4 s."""

    def __init__(self, client: S3fsClient) -> None:
        self.call = client.call

    def close(self) -> None:
        """At the end of the process."""


class _SmallPages(_KeptClient):
    """Listings come by pages of 7 keys."""

    def __init__(self, client: S3fsClient) -> None:
        super().__init__(client)
        self.close = client.close

        def call(operation: str, **arguments: Any) -> Mapping[str, Any]:
            return client.call(operation, **({"MaxKeys": 7} if operation == "list_objects_v2" else {}), **arguments)

        self.call = call


_clients: dict[str | None, _KeptClient] = {}


class S3StoreConformance(ObjectStoreConformance):
    """A subclass has a fixture ``place``, and says what its server makes of If-None-Match."""

    #: Of a PUT, and of a completion: "honoured", "ignored", "refused".
    puts_if_absent: ClassVar[str]
    completes_if_absent: ClassVar[str]
    #: How the commit of an upload fails that somebody has ended.
    ended_upload: ClassVar[str] = "unfinished upload"

    @pytest.fixture
    def options(self, place: S3Place) -> StorageOptions:
        return StorageOptions(
            url=f"s3://{place.make_bucket()}/some/prefix",
            endpoint_url=place.endpoint_url,
            access_key=place.access_key,
            secret_key=place.secret_key,
            region="us-east-1",
            path_style=True,
            part_bytes=PART_BYTES,
            deadline_s=20,
        )

    @pytest.fixture
    def store(self, options: StorageOptions) -> Iterator[ObjectStore]:
        if options.endpoint_url not in _clients:
            _clients[options.endpoint_url] = _KeptClient(S3fsClient(options))
        opened = S3Store(options, client=_clients[options.endpoint_url])
        yield opened
        opened.close()
        opened.close()

    @pytest.fixture
    def fill(self, place: S3Place, options: StorageOptions) -> Fill:
        bucket, _, prefix = options.url.removeprefix("s3://").partition("/")
        return lambda keys: place.server.fill(bucket, [f"{prefix}/{key}" for key in keys])

    @pytest.mark.compatibility(column="listing by pages")
    @pytest.mark.parametrize("prefix", ["", "b/topics/"])
    def test_a_listing_by_small_pages_is_complete(self, options: StorageOptions, fill: Fill, prefix: str) -> None:
        """SeaweedFS gives 2,500 keys in one page; so all are asked for small ones, which end anywhere in a tree of folders."""
        keys = [f"b/topics/t{topic}/partition={number}/{one:020d}" for topic in range(3) for number in range(4) for one in range(9)]
        keys += ["b/manifest.json", "b/topics-more", "b/locks/1.json", "c", "b-2/manifest.json"]
        fill(keys)
        with closing(S3Store(options, client=_SmallPages(S3fsClient(options)))) as store:
            assert [info.key for info in store.list(prefix)] == sorted(key for key in keys if key.startswith(prefix))

    @pytest.mark.compatibility(column="multipart")
    def test_an_aborted_upload_leaves_no_parts(self, store: ObjectStore, options: StorageOptions) -> None:
        client = S3fsClient(options)
        bucket = options.url.split("/")[2]

        def unfinished() -> int:
            return len(client.call("list_multipart_uploads", timeout_s=10, Bucket=bucket).get("Uploads") or [])

        upload = store.open_upload("up")
        upload.write(b"x" * (2 * PART_BYTES + 1))
        assert unfinished() == 1
        upload.abort()
        assert unfinished() == 0
        client.close()

    @pytest.mark.compatibility(column="leftovers of killed uploads")
    def test_unfinished_uploads_below_one_folder_are_ended_and_those_of_others_are_not(
        self, store: ObjectStore, options: StorageOptions
    ) -> None:
        keys = ["nightly/topics/a", "nightly/topics/b", "nightly-2/a", "other"]
        uploads = [store.open_upload(key) for key in keys]
        for upload in uploads:
            upload.write(b"x" * (PART_BYTES + 1))
        # in the store, not on their way: SeaweedFS takes what arrives after the end, and then has the whole object
        wait_until(
            lambda: all(future.done() for upload in uploads for _number, future in upload._flying),
            deadline_s=30,
            what="the first parts",
        )
        assert store.remove_leftovers("nightly") == 2
        assert store.remove_leftovers("nightly") == 0
        with pytest.raises(StorageError, match=self.ended_upload):
            uploads[0].commit()
        for upload in uploads[2:]:
            upload.commit()
        assert {"nightly-2/a", "other"} <= {info.key for info in store.list("") if info.size_bytes == PART_BYTES + 1}

    @pytest.mark.compatibility(column="wrong settings told")
    @pytest.mark.parametrize(
        ("changes", "kind", "words"),
        [
            ({"access_key": "nobody"}, AccessDenied, "the access key is not known"),
            ({"secret_key": "a-wrong-secret"}, AccessDenied, "the signature is wrong"),
            (
                {"url": "s3://no-such-bucket/p"},
                StorageError,
                "bucket no-such-bucket does not exist at http://127.0.0.1",
            ),
        ],
        ids=["access key", "secret key", "bucket"],
    )
    def test_wrong_settings_are_one_clear_line(
        self, options: StorageOptions, changes: dict[str, str], kind: type[KbrError], words: str
    ) -> None:
        opened = open_store(replace(options, **changes))
        with pytest.raises(kind) as caught:
            opened.check()
        assert words in str(caught.value)
        assert "wrong-secret" not in f"{caught.value!r}{caught.value.hint}"
        opened.close()

    # -- what the server itself does ------------------------------------------------------

    def test_the_server_does_with_conditions_what_is_said_of_it(
        self, options: StorageOptions, request: pytest.FixtureRequest
    ) -> None:
        """Asked past the store: so that a server that changes its mind is noticed."""
        bucket = options.url.split("/")[2]
        client = S3fsClient(options)

        def call(operation: str, **arguments: object) -> dict[str, object]:
            return dict(client.call(operation, timeout_s=20, Bucket=bucket, **arguments))

        def put(key: str) -> None:
            call("put_object", Key=key, Body=b"x", IfNoneMatch="*")

        def complete(key: str) -> None:
            upload_id = call("create_multipart_upload", Key=key)["UploadId"]
            part = call("upload_part", Key=key, UploadId=upload_id, PartNumber=1, Body=b"x")
            parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
            call("complete_multipart_upload", Key=key, UploadId=upload_id, MultipartUpload=parts, IfNoneMatch="*")

        found = {}
        for column, write in (("conditional PUT", put), ("conditional completion", complete)):
            for key in (column, "there"):  # a new one, and one in the place of another
                call("put_object", Key="there", Body=b"first")
                found[column] = _what_happens(write, key)
                if found[column] == "refused":
                    break
        client.close()
        said = [self.puts_if_absent, self.completes_if_absent]
        assert list(found.values()) == said, found
        for column, value in found.items():
            cell = {"table": "storage", "row": _row(self), "column": column, "value": value}
            request.node.user_properties.append(("compatibility", cell))

    def test_the_server_of_the_tests_listens_on_loopback_alone(self, place: S3Place) -> None:
        found = [address for pid in place.server.pids() for address in listening(pid)]
        assert any(port == place.port for _host, port in found)
        assert {host for host, _port in found} == {"127.0.0.1"}

    # -- a server that dies ---------------------------------------------------------------

    @pytest.mark.timeout(240)
    @pytest.mark.compatibility(column="restart in mid-write")
    @pytest.mark.parametrize(
        ("operation", "fault"), [("PUT", "dies at half"), ("part", "dies at half"), ("complete", "dies at the end")]
    )
    def test_a_write_goes_on_over_a_kill_of_the_server_and_nothing_half_is_ever_listed(
        self, place: S3Place, options: StorageOptions, operation: str, fault: str
    ) -> None:
        """SIGKILL while the server has half of the body, or while it puts parts together."""
        data = os.urandom(PART_BYTES if operation == "PUT" else 2 * PART_BYTES + 17)
        died = threading.Event()

        def die() -> None:
            place.server.crash()
            died.set()

        with S3Proxy(place.port) as network, ThreadPoolExecutor(1) as writer:
            network.on_death = die
            writing = open_store(replace(options, endpoint_url=network.endpoint_url, deadline_s=150))
            looking = open_store(options)
            fault_armed = network.fail(operation, fault, at=2 if operation == "part" else 1)
            done = writer.submit(_write, writing, data)
            try:
                assert died.wait(30)
            finally:
                place.server.start()
            for info in looking.list(""):
                assert (info.key, info.size_bytes) == ("up", len(data))
            # Ceph's RGW keeps others from an upload whose completion it died in, and tries come at most 30 s apart
            try:
                assert done.result(160).size_bytes == len(data)
            except StorageError as error:
                # versitygw has been seen to answer, die, and have nothing: an error then, and nothing half
                assert operation == "complete"
                assert "is not there right after it was written" in str(error)
                assert [info.key for info in looking.list("")] == []
                return
            assert fault_armed.done == 1
            assert [info.key for info in looking.list("")] == ["up"]
            assert looking.get("up", max_bytes=len(data)) == data
            for store in (writing, looking):
                store.close()

    @pytest.mark.compatibility(column="restart in mid-write")
    def test_an_upload_goes_on_over_a_kill_of_the_server_between_its_parts(self, place: S3Place, store: ObjectStore) -> None:
        upload = store.open_upload("up")
        data = os.urandom(3 * PART_BYTES + 17)
        upload.write(data[: 2 * PART_BYTES + 1])
        place.server.crash()
        place.server.start()
        assert [info.key for info in store.list("")] == []
        upload.write(data[2 * PART_BYTES + 1 :])
        assert upload.commit().size_bytes == len(data)
        assert store.get("up", max_bytes=len(data)) == data


def _write(store: ObjectStore, data: bytes):
    upload = store.open_upload("up")
    for start in range(0, len(data), 1_000_003):
        upload.write(data[start : start + 1_000_003])
    return upload.commit()


def _what_happens(write: Callable[[str], object], key: str) -> str:
    """To a conditional write."""
    try:
        write(key)
    except S3Failure as failure:
        return "honoured" if failure.status == 412 else "refused" if failure.status in (400, 501) else repr(failure)
    return "ignored"


def _row(test: S3StoreConformance) -> str:
    row = type(test).row
    return row() if callable(row) else row
