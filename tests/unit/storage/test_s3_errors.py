"""What an S3 server's answers become: the hint names the setting that mends it."""

from __future__ import annotations

import pytest

from kbr.errors import StorageError
from kbr.storage.s3_errors import FailureKind, Place, S3Failure, translate


def _told(operation: str, code: str, reason: str) -> StorageError:
    failure = S3Failure(FailureKind.ANSWERED, reason, code=code, status=400)
    place = Place(operation=operation, endpoint="http://s3.test", bucket="b", name="s3://b/k", key="k")
    error = translate(failure, place, now_ms=0)
    assert type(error) is StorageError
    return error


@pytest.mark.parametrize(
    ("operation", "code", "reason"),
    [
        ("put", "AuthorizationHeaderMalformed", "the region 'nowhere' is wrong; expecting 'us-east-1'"),
        ("put", "400", "Bad Request"),  # what versitygw answers the HEAD with that a write begins with
    ],
)
def test_a_write_to_a_server_that_wants_another_region_names_the_setting(operation: str, code: str, reason: str) -> None:
    assert "check storage.region" in _told(operation, code, reason).hint


def test_a_read_that_is_answered_with_400_is_one_of_another_key() -> None:
    assert "storage.sse_customer_key" in _told("get", "400", "Bad Request").hint
