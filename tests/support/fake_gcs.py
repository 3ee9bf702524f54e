"""fake-gcs-server, a stand-in for Google Cloud Storage: a Go module, built once into .cache/. Standard library only."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

from tests.support.servers import CACHE, ServerError, _filling, _run

FAKE_GCS_VERSION = "v1.56.1"


def fake_gcs_binary() -> Path:
    """The program, built once from the Go module."""
    binary = CACHE / f"fake-gcs-server-{FAKE_GCS_VERSION}" / "fake-gcs-server"
    if binary.exists():
        return binary
    go = shutil.which("go")
    if go is None:
        raise ServerError("go is missing: install Go 1.21 or newer")
    with _filling(binary.parent), tempfile.TemporaryDirectory(dir=binary.parent) as scratch:
        if not binary.exists():
            _run(
                [go, "install", f"github.com/fsouza/fake-gcs-server@{FAKE_GCS_VERSION}"],
                # auto: a Go older than the module asks for fetches the newer one as a module
                env={**os.environ, "GOBIN": scratch, "GOTOOLCHAIN": "auto", "GOFLAGS": ""},
            )
            Path(scratch, binary.name).replace(binary)  # whole or not at all: go copies it bit by bit
    return binary


if __name__ == "__main__":
    # scripts/setup: build now, so that no test waits for it
    try:
        fake_gcs_binary()
    except ServerError as error:
        sys.exit(f"{Path(__file__).name}: {error}")
