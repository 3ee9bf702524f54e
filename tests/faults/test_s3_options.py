"""How S3 is asked to keep objects: what goes over the wire, what a server that does otherwise leads to."""

from __future__ import annotations

import base64
import hashlib
import os
import pickle
import random
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone

import pytest

from kbr.errors import AccessDenied, ConfigError, KbrError, StorageError
from kbr.model import Compression
from kbr.repository.layout import RETAINED_KEYS, SEGMENT_KEYS, groups_key, manifest_key, segment_key
from kbr.storage import ObjectOptions, StorageOptions
from kbr.storage.fsspec_store import S3fsClient
from kbr.storage.s3 import S3Store
from kbr.timing import Backoff
from tests.support.scripted_s3 import ScriptedS3

PART_BYTES = 5 * 1024 * 1024
KEY = bytes(range(32))
SEGMENT = segment_key("nightly", "orders", 0, 0, Compression.ZSTD)
MANIFEST = manifest_key("nightly")
GROUPS = groups_key("nightly")

Record = Callable[[str, object], None]


@pytest.fixture(scope="module")
def client() -> Iterator[tuple[ScriptedS3, S3fsClient]]:
    """One server and one client for all tests of this module."""
    with ScriptedS3() as server:
        made = S3fsClient(_options(server))
        yield server, made
        made.close()


@pytest.fixture
def server(client: tuple[ScriptedS3, S3fsClient]) -> ScriptedS3:
    client[0].reset()
    return client[0]


@pytest.fixture
def store_with(server: ScriptedS3, client: tuple[ScriptedS3, S3fsClient]) -> Callable[..., S3Store]:
    """Makes stores with ObjectOptions."""

    def make(**objects: object) -> S3Store:
        keys = {"storage_class_keys": SEGMENT_KEYS, "lock_keys": RETAINED_KEYS}
        made = ObjectOptions(**{**keys, **objects})  # type: ignore[arg-type]
        options = _options(server, objects=made)
        return S3Store(options, client=client[1], backoff=Backoff(base_s=0.01, cap_s=0.05), rng=random.Random(1))

    return make


def _options(server: ScriptedS3, **more: object) -> StorageOptions:
    facts: dict[str, object] = {
        "url": "s3://bucket/p", "endpoint_url": server.endpoint_url, "access_key": "testkey", "secret_key": "s",
        "region": "us-east-1", "path_style": True, "deadline_s": 5.0, "part_bytes": PART_BYTES,
    }  # fmt: skip
    return StorageOptions(**{**facts, **more})  # type: ignore[arg-type]


def _upload(store: S3Store, key: str) -> bytes:
    data = os.urandom(2 * PART_BYTES + 1)
    upload = store.open_upload(key, if_absent=True)
    upload.write(data)
    upload.commit()
    return data


def _sent(server: ScriptedS3, operation: str) -> list[dict[str, str]]:
    return [headers for name, headers in zip(server.requests, server.headers, strict=True) if name == operation]


def _row(record: Record, row: str) -> None:
    record("compatibility", {"table": "storage options", "row": row, "column": "wire"})


@pytest.mark.parametrize(
    ("row", "objects", "headers"),
    [
        ("SSE-S3", {"sse": "AES256"}, {"x-amz-server-side-encryption": "AES256"}),
        (
            "SSE-KMS",
            {"sse": "aws:kms", "sse_kms_key_id": "alias/kbr"},
            {
                "x-amz-server-side-encryption": "aws:kms",
                "x-amz-server-side-encryption-aws-kms-key-id": "alias/kbr",
            },
        ),
        ("tags", {"tags": (("team", "data & more"), ("a/b", ""))}, {"x-amz-tagging": "team=data+%26+more&a%2Fb="}),
    ],
    ids=["SSE-S3", "SSE-KMS", "tags"],
)
def test_every_object_is_made_with_encryption_and_tags(
    server: ScriptedS3,
    store_with: Callable[..., S3Store],
    record_property: Record,
    row: str,
    objects: dict[str, object],
    headers: dict[str, str],
) -> None:
    _row(record_property, row)
    store = store_with(**objects)
    store.put(MANIFEST, b"{}")
    store.put(GROUPS, b"{}", if_absent=True)
    data = _upload(store, SEGMENT)
    assert store.get(SEGMENT, max_bytes=len(data)) == data
    made = [*_sent(server, "put"), *_sent(server, "create")]
    assert len(made) == 3
    for one in made:
        assert {name: one.get(name) for name in headers} == headers
    for one in [*_sent(server, "upload_part"), *_sent(server, "head"), *_sent(server, "get")]:
        assert not set(headers).intersection(one)  # servers refuse them there


def test_the_customer_s_key_goes_with_every_request_about_an_object_s_bytes(
    server: ScriptedS3, store_with: Callable[..., S3Store], record_property: Record
) -> None:
    _row(record_property, "SSE-C")
    store = store_with(sse_customer_key=KEY)
    store.put(MANIFEST, b"{}")
    data = _upload(store, SEGMENT)
    assert store.get(SEGMENT, max_bytes=len(data)) == data
    assert store.read_range(SEGMENT, 5, 7) == data[5:12]
    assert [info.key for info in store.list("")] == [MANIFEST, SEGMENT]
    store.delete(MANIFEST)
    start = "x-amz-server-side-encryption-customer-"
    expected = {
        f"{start}algorithm": "AES256",
        f"{start}key": base64.b64encode(KEY).decode(),
        f"{start}key-md5": base64.b64encode(hashlib.md5(KEY).digest()).decode(),
    }
    for operation in ("put", "create", "upload_part", "complete", "head", "get"):
        assert _sent(server, operation), operation
        for headers in _sent(server, operation):
            assert {name: headers.get(name) for name in expected} == expected, operation
    for operation in ("list", "delete"):
        assert not any(name.startswith(start) for headers in _sent(server, operation) for name in headers)


@pytest.mark.parametrize("key", [None, bytes(32)], ids=["none", "another"])
def test_without_the_customer_s_key_an_object_is_an_error_that_says_so(
    store_with: Callable[..., S3Store], key: bytes | None
) -> None:
    store_with(sse_customer_key=KEY).put("m", b"x")
    blind = store_with(sse_customer_key=key)
    for read in (lambda: blind.get("m", max_bytes=1), lambda: blind.head("m"), lambda: blind.read_range("m", 0, 1)):
        with pytest.raises(StorageError) as caught:
            read()
        assert "storage.sse_customer_key" in caught.value.hint
        assert base64.b64encode(KEY).decode() not in f"{caught.value!r} {caught.value.context}"


def test_the_storage_class_is_that_of_segments_only(
    server: ScriptedS3, store_with: Callable[..., S3Store], record_property: Record
) -> None:
    _row(record_property, "storage class")
    store = store_with(storage_class="STANDARD_IA")
    for key in (MANIFEST, GROUPS, "nightly/locks/x.json", "nightly/index/p.parquet", "nightly/restores/ab/state.json"):
        store.put(key, b"{}")
    assert not any("x-amz-storage-class" in headers for headers in server.headers)
    store.put(SEGMENT, b"small")
    assert [one.get("x-amz-storage-class") for one in _sent(server, "put")[-1:]] == ["STANDARD_IA"]
    server.reset()
    _upload(store, SEGMENT)
    assert [one.get("x-amz-storage-class") for one in _sent(server, "create")] == ["STANDARD_IA"]


@pytest.mark.parametrize("mode", ["GOVERNANCE", "COMPLIANCE"])
def test_segments_and_groups_are_retained_and_nothing_else_is(
    server: ScriptedS3, store_with: Callable[..., S3Store], record_property: Record, mode: str
) -> None:
    _row(record_property, f"object lock, {mode.lower()}")
    store = store_with(lock_mode=mode, lock_retain_days=30)
    store.put(MANIFEST, b"{}")
    store.put("nightly/locks/x.json", b"{}")
    assert not any(name.startswith("x-amz-object-lock") for headers in server.headers for name in headers)
    store.put(GROUPS, b"{}")
    _upload(store, SEGMENT)
    for one in (_sent(server, "put")[-1], _sent(server, "create")[0]):
        assert one["x-amz-object-lock-mode"] == mode
        until = datetime.fromisoformat(one["x-amz-object-lock-retain-until-date"].replace("Z", "+00:00"))
        assert abs(until - datetime.now(timezone.utc) - timedelta(days=30)) < timedelta(minutes=2)


@pytest.mark.fault("S5", "object lock: each body has its checksum", promise=1)
def test_bodies_that_are_retained_carry_their_md5(server: ScriptedS3, store_with: Callable[..., S3Store]) -> None:
    server.wants_md5 = True  # and checks it
    store = store_with(lock_mode="GOVERNANCE", lock_retain_days=1)
    store.put(MANIFEST, b"{}")
    data = _upload(store, SEGMENT)
    assert (server.count("put"), server.count("upload_part")) == (1, 3)
    assert server.objects[f"p/{SEGMENT}"].data == data


@pytest.mark.fault("S5", "a bucket's own default retention wants a checksum", promise=1)
def test_a_bucket_with_a_default_retention_gets_checksums_without_a_setting(
    server: ScriptedS3, store_with: Callable[..., S3Store], record_property: Record
) -> None:
    _row(record_property, "bucket with a default retention")
    store = store_with()
    store.put("before", b"{}")
    assert "content-md5" not in server.headers[0]  # it costs time, and most servers don't ask for it
    server.wants_md5 = True
    store.put(MANIFEST, b"{}")
    assert server.count("put") == 3
    data = _upload(store, SEGMENT)
    store.put(GROUPS, b"{}", if_absent=True)
    assert (server.count("put"), server.count("upload_part")) == (4, 3)
    assert server.objects[f"p/{SEGMENT}"].data == data


@pytest.mark.parametrize(
    ("objects", "option"),
    [({"sse": "AES256"}, "storage.sse"), ({"sse_customer_key": KEY}, "storage.sse_customer_key")],
    ids=["sse", "sse_customer_key"],
)
def test_a_server_that_ignores_encryption_is_an_error_that_names_the_option(
    server: ScriptedS3, store_with: Callable[..., S3Store], objects: dict[str, object], option: str
) -> None:
    server.ignores_options = True
    store = store_with(**objects)
    for write in (lambda: store.put("m", b"x"), lambda: _upload(store, SEGMENT)):
        with pytest.raises(KbrError, match=f"not encrypted as {option} says") as caught:
            write()
        assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("objects", "header", "answer", "named"),
    [
        ({"sse": "AES256"}, "x-amz-server-side", ("NotImplemented", 501, "A header you provided"), "storage.sse"),
        (
            {"sse": "aws:kms", "sse_kms_key_id": "k", "tags": (("a", "b"),)},
            "x-amz-server-side",
            ("KMS.NotFoundException", 400, "Key 'k' does not exist"),
            "storage.sse_kms_key_id",
        ),
        (
            {"sse": "aws:kms", "tags": (("a", "b"),)},
            "x-amz-server-side",
            ("InvalidArgument", 400, "Server side encryption specified but KMS is not configured"),
            "storage.sse",
        ),
        (
            {"storage_class": "COLD", "tags": (("a", "b"),)},
            "x-amz-storage-class",
            ("InvalidStorageClass", 400, "The storage class you specified is not valid"),
            "storage.storage_class",
        ),
        ({"tags": (("a", "b"),), "sse": "AES256"}, "x-amz-tagging", ("InvalidTag", 400, "bad"), "storage.tags"),
        (
            {"lock_mode": "GOVERNANCE", "lock_retain_days": 1, "sse": "AES256"},
            "x-amz-object-lock",
            ("InvalidRequest", 400, "Bucket is missing Object Lock Configuration"),
            "storage.object_lock_mode",
        ),
        (
            {"lock_mode": "GOVERNANCE", "lock_retain_days": 1, "sse": "AES256"},
            "x-amz-object-lock",
            ("InvalidArgument", 400, ""),
            "storage.sse and storage.object_lock_mode",
        ),
    ],
)
def test_a_server_that_refuses_an_option_is_one_line_that_names_it(
    server: ScriptedS3,
    store_with: Callable[..., S3Store],
    objects: dict[str, object],
    header: str,
    answer: tuple[str, int, str],
    named: str,
) -> None:
    server.refused_headers[header] = answer
    store = store_with(**objects)
    for write in (
        lambda: store.put(SEGMENT, b"x"),
        lambda: store.put(SEGMENT, b"x", if_absent=True),
        lambda: _upload(store, SEGMENT),
    ):
        started = time.monotonic()
        with pytest.raises(ConfigError) as caught:
            write()
        assert f"{server.endpoint_url} refuses {named}: " in str(caught.value)
        assert "\n" not in str(caught.value)
        assert time.monotonic() - started < 4  # not tried again until the deadline
    assert server.objects == {}


def test_a_missing_right_names_those_that_the_options_need(
    server: ScriptedS3, store_with: Callable[..., S3Store]
) -> None:
    server.denied = frozenset({"put"})
    store = store_with(tags=(("a", "b"),), lock_mode="GOVERNANCE", lock_retain_days=1)
    with pytest.raises(AccessDenied) as caught:
        store.put(SEGMENT, b"x")
    assert "storage.tags needs s3:PutObjectTagging" in caught.value.hint
    assert "storage.object_lock_mode needs s3:PutObjectRetention" in caught.value.hint
    with pytest.raises(AccessDenied) as caught:
        store_with().put(SEGMENT, b"x")
    assert "Tagging" not in caught.value.hint


def test_the_customer_s_key_is_never_sent_in_the_clear(server: ScriptedS3) -> None:
    objects = ObjectOptions(sse_customer_key=KEY)
    for endpoint in ("http://s3.example.org", "http://10.0.0.1:9000", "http://localhost.example.org"):
        with pytest.raises(ConfigError, match="unencrypted"):
            _options(server, endpoint_url=endpoint, objects=objects)
    for endpoint in ("https://s3.example.org", "http://localhost:1", "http://[::1]:1", None):
        _options(server, endpoint_url=endpoint, objects=objects)


def test_a_customer_s_key_of_another_length_is_refused() -> None:
    with pytest.raises(ConfigError, match="has 16 bytes and not 32"):
        ObjectOptions(sse_customer_key=bytes(16))


def test_options_reach_a_worker_as_they_are_and_show_no_key(server: ScriptedS3) -> None:
    objects = ObjectOptions(
        sse_customer_key=KEY, storage_class="X", tags=(("a", "b"),), lock_mode="COMPLIANCE", lock_retain_days=3
    )
    options = _options(server, objects=objects, profile="p", extra={"token": "hidden"})
    again = pickle.loads(pickle.dumps(options))
    assert again == options
    assert hash(again) == hash(options)
    assert "hidden" not in repr(options)
    assert repr(KEY) not in f"{options!r}{objects!r}"
