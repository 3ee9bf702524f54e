"""An upload that encrypts what is written to it, over one of the store below."""

from __future__ import annotations

from dataclasses import replace

from kbr.errors import StorageError
from kbr.format.envelope import Sealer, plain_bytes
from kbr.storage.base import ObjectInfo, Upload

__all__ = ["SealedUpload", "plain_info"]


def plain_info(info: ObjectInfo, *, open_bytes: int = 0) -> ObjectInfo:
    """What the store below says of an encrypted object, with the size of what is in it."""
    return replace(info, size_bytes=plain_bytes(info.size_bytes, open_bytes=open_bytes))


class SealedUpload:
    """See kbr.storage.base.Upload; holds one chunk."""

    def __init__(self, inner: Upload, key: str, sealer: Sealer) -> None:
        self._inner = inner
        self._key = key
        self._sealer: Sealer | None = sealer

    def write(self, data: bytes | memoryview) -> None:
        try:
            sealed = self._usable().update(data)
            if sealed:
                self._inner.write(sealed)
        except BaseException:
            self.abort()
            raise

    def complete(self) -> Upload:
        """The upload below, with all its bytes; for who commits that.

        Raises:
            KbrError: that failed, and it is aborted.
        """
        try:
            self._inner.write(self._usable().finish())
        except BaseException:
            self.abort()
            raise
        self._sealer = None
        return self._inner

    def commit(self) -> ObjectInfo:
        return plain_info(self.complete().commit())

    def abort(self) -> None:
        self._sealer = None
        self._inner.abort()

    def _usable(self) -> Sealer:
        if self._sealer is None:
            raise StorageError(f"the upload of {self._key} is over", object=self._key)
        return self._sealer
