"""The conformance suite, and whole backups, on Ceph's RGW. In a file of its own: the server is started once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.contract.backup_jobs import BackupJobs
from tests.contract.s3_store import S3StoreConformance
from tests.support.s3_servers import ceph_label

if TYPE_CHECKING:
    from tests.conftest import S3Place


@pytest.mark.servers
class TestCeph(S3StoreConformance, BackupJobs):
    row = ceph_label
    puts_if_absent = "honoured"
    completes_if_absent = "ignored"

    @pytest.fixture
    def place(self, ceph: S3Place) -> S3Place:
        return ceph
