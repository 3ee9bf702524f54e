"""kbr.open_backup and kbr cat on a real S3 server: by keyword, by variables, and with few requests."""

from __future__ import annotations

from typing import Any

import pytest

import kbr
from kbr.errors import StorageError
from tests.support.backups import RecordingStore, store_backup
from tests.support.cli import run_kbr
from tests.support.s3_proxy import S3Proxy


@pytest.fixture
def url(s3: Any) -> str:
    """A backup ``nightly`` in a bucket of its own."""
    bucket = s3.make_bucket()
    made = RecordingStore()
    store_backup(made)
    for key in made.stored_keys():
        path = s3.folder(bucket) / "backups" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(made.data(key))
    return s3.storage_url(bucket, "backups")


def test_a_backup_is_opened_by_the_keys_of_the_configuration(s3: Any, s3_network: S3Proxy, url: str) -> None:
    keys = {"endpoint": s3_network.endpoint_url, "access_key": s3.access_key, "secret_key": s3.secret_key, "region": "us-east-1"}
    with kbr.open_backup(url, "nightly", **keys) as backup:
        s3_network.reset()
        assert [one.offset for one in backup.records("orders", 1, from_offset=170, to_offset=172)] == [170, 171, 172]
        # one small segment, whole
        assert [(one.operation, one.key.rpartition("/")[2]) for one in s3_network.trace] == [
            ("GET", "segment-00000000000000000160.zst")
        ]
        assert backup.arrow_table("orders").num_rows == 240


def test_a_place_that_refuses_is_an_error_and_leaves_nothing_open(s3: Any, url: str) -> None:
    with pytest.raises(StorageError):
        kbr.open_backup(url, "nightly", endpoint=s3.endpoint_url, access_key="nobody", secret_key="wrong", region="us-east-1")


def test_cat_reads_from_s3_by_variables(s3: Any, url: str) -> None:
    done = run_kbr("cat", "nightly", "--storage", url, "-t", "orders", "-p", "0", "-o", "-2", "-f", "%o,", env=s3.env)
    assert (done.returncode, done.stdout) == (0, "218,219,")
