"""fake-gcs-server, a stand-in for Google Cloud Storage: a Go module, built once into .cache/. Standard library only."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.support.servers import CACHE, ServerError, go_installed

FAKE_GCS_VERSION = "v1.56.1"


def fake_gcs_binary() -> Path:
    """The program, built once from the Go module."""
    binary = CACHE / f"fake-gcs-server-{FAKE_GCS_VERSION}" / "fake-gcs-server"
    return go_installed(binary, f"github.com/fsouza/fake-gcs-server@{FAKE_GCS_VERSION}")


if __name__ == "__main__":
    # scripts/setup: build now, so that no test waits for it
    try:
        fake_gcs_binary()
    except ServerError as error:
        sys.exit(f"{Path(__file__).name}: {error}")
