"""The conformance suite, and whole backups, on SeaweedFS. In a file of its own: the server is started once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.contract.backup_jobs import BackupJobs
from tests.contract.s3_store import S3StoreConformance
from tests.support.s3_servers import SEAWEEDFS_LABEL

if TYPE_CHECKING:
    from tests.conftest import S3Place


@pytest.mark.servers
class TestSeaweedFS(S3StoreConformance, BackupJobs):
    row = SEAWEEDFS_LABEL
    puts_if_absent = completes_if_absent = "ignored"
    # it takes parts of an upload that is gone, and makes an object of those alone: which is found out
    ended_upload = r"nightly/topics/a has \d+ bytes after 5242881 were written"

    @pytest.fixture
    def place(self, seaweedfs: S3Place) -> S3Place:
        return seaweedfs
