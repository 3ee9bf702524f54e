"""Azurite, Microsoft's stand-in for Azure's blobs: from npm, kept in .cache/ of the checkout. Standard library only."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.support.servers import CACHE, ServerError, _filling, _run

AZURITE_VERSION = "3.37.0"


def azurite() -> Path:
    """Azurite's program, fetched once."""
    folder = CACHE / f"azurite-{AZURITE_VERSION}"
    program = folder / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js"
    complete = folder / ".complete"
    if complete.exists():
        return program
    npm = shutil.which("npm")
    if npm is None:
        raise ServerError("npm is missing: install it (Debian: apt-get install nodejs npm)")
    with _filling(folder):
        if not complete.exists():
            # scripts of packages are not run: none of Azurite's needs one
            _run([
                npm, "install", "--prefix", str(folder), "--ignore-scripts", "--omit=dev", "--no-audit", "--no-fund",
                f"azurite@{AZURITE_VERSION}",
            ])  # fmt: skip
            complete.touch()
    return program


if __name__ == "__main__":
    # scripts/setup: fetch now, so that no test waits for it
    azurite()
