"""A store in which the objects of encrypted backups are sealed: everything above it sees plain bytes and plain sizes.

Below a backup's folder all is sealed but ``keys.json`` and locks; what else lies in the store passes through. Nothing is
given out before its tag was checked. Knows the envelope (kbr.format.envelope), and of what is in it only the manifest's end.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from kbr.errors import AccessDenied, KbrError, ObjectMissing, ObjectTooLarge, StorageError, UnsupportedFormat
from kbr.format.data_keys import DataKey
from kbr.format.envelope import (
    CHUNK_BYTES,
    HEADER_BYTES,
    MAX_OPEN_BYTES,
    SEALED_CHUNK_BYTES,
    TAG_BYTES,
    Header,
    Sealer,
    broken,
    key_info,
    new_header,
    open_chunks,
    parse_header,
    plain_bytes,
    seal_whole,
    sealed_bytes,
)
from kbr.format.manifest_signature import SUFFIX_BYTES, Signature, check_signature, find_signature
from kbr.format.names import MANIFEST_NAME, is_backup_id
from kbr.format.open_part import dump_open_part
from kbr.repository.backup_keys import BackupKeys, Trust
from kbr.repository.layout import KEYS_NAME, is_locks_path
from kbr.repository.sealed_upload import SealedUpload, plain_info
from kbr.storage.base import (
    NO_METADATA,
    CommitsTogether,
    ObjectInfo,
    ObjectStore,
    StoreProperties,
    Upload,
    check_range,
)

if TYPE_CHECKING:  # cryptography is loaded when something is sealed or opened
    from kbr.format.crypto import ObjectCipher

__all__ = ["SealedStore", "SealedTogetherStore", "seal_over"]

_log = logging.getLogger("kbr.keys")

_T = TypeVar("_T")

#: Objects that are remembered: those that are read by ranges are read again soon.
_KNOWN_OBJECTS = 4096
#: How a manifest ends, behind its signature.
_MANIFEST_SEAL_BYTES = len(b',"sha256":""}') + 64
#: Stands for a result until it is known.
_PENDING = StorageError("the upload was not committed")


class _Place(NamedTuple):
    """Where an object lies: what its key is bound to."""

    backup_id: str
    path: str


class _Known(NamedTuple):
    """What is remembered of an object that is read by ranges; its plain size."""

    header: Header
    cipher: ObjectCipher
    size_bytes: int


class SealedStore:
    """See the module; as thread-safe as the store below it, which it closes.

    Raises beside what every store does:
        WrongKey: the backup is encrypted, and nothing that was given opens it.
        NotEncrypted: it is not, and ``trust`` does not accept that.
        SealBroken: an object is not what was written there.
        SignatureInvalid: a manifest is not signed by who is trusted.
    """

    def __init__(self, inner: ObjectStore, trust: Trust, *, known: Mapping[str, DataKey] | None = None) -> None:
        self._inner = inner
        self._trust = trust
        self._keys = BackupKeys(inner, trust, known or {})
        self._lock = threading.Lock()
        self._objects: OrderedDict[str, _Known] = OrderedDict()
        self._sizes: OrderedDict[str, int] = OrderedDict()
        self._signers: dict[str, bytes] = {}

    # -- what is beside ObjectStore -------------------------------------------------------

    @property
    def inner(self) -> ObjectStore:
        """Objects as they are stored."""
        return self._inner

    @property
    def keys(self) -> BackupKeys:
        """Of the backups in the store."""
        return self._keys

    @property
    def trust(self) -> Trust:
        """As it was given."""
        return self._trust

    def put_manifest(self, key: str, data: bytes, rows: Callable[[], list[list[Any]]]) -> ObjectInfo:
        """Write a manifest; an encrypted backup's with its open part.

        Args:
            rows: makes the inventory (kbr.format.open_part); not asked of a plain backup.
        """
        place = _place_of(key)
        data_key = None if place is None else self._keys.key_to_write(place.backup_id)
        if place is None or data_key is None:
            return self._inner.put(key, data)
        self._forget(key)
        open_part = dump_open_part(place.backup_id, self._keys.document(place.backup_id), rows())
        info = self._inner.put(key, _sealed(place, data_key, data, open_part))
        return plain_info(info, open_bytes=len(open_part))

    def check_signature(self, backup_id: str, found: Signature | None, digest: bytes, *, name: str) -> None:
        """See that a manifest is signed by who is trusted, and note by whom.

        Args:
            found: at its end.
            digest: SHA-256 of all bytes before that.
            name: the manifest, for messages.

        Raises:
            SignatureInvalid: it is not.
        """
        if found is None and self._trust.accept_unsigned:
            _log.warning("%s is not signed; it is gone on with, as signing.accept_unsigned says, and signed from now on", name)
        else:
            check_signature(found, backup_id=backup_id, digest=digest, public_keys=self._trust.public_keys, name=name)
        with self._lock:
            self._signers[backup_id] = b"" if found is None else found.signer

    def signer(self, backup_id: str) -> bytes | None:
        """Who has signed the manifest that was read last; empty where nobody has, None where none was read and checked."""
        with self._lock:
            return self._signers.get(backup_id)

    def note_size(self, key: str, size_bytes: int) -> None:
        """See kbr.storage.base.TakesSizes."""
        with self._lock:
            self._sizes[key] = size_bytes
            if len(self._sizes) > _KNOWN_OBJECTS:
                self._sizes.popitem(last=False)

    # -- ObjectStore ----------------------------------------------------------------------

    @property
    def properties(self) -> StoreProperties:
        return self._inner.properties

    @property
    def url(self) -> str:
        return self._inner.url

    def put(
        self, key: str, data: bytes, *, if_absent: bool = False, metadata: Mapping[str, str] = NO_METADATA
    ) -> ObjectInfo:
        place = _place_of(key)
        data_key = None if place is None else self._keys.key_to_write(place.backup_id)
        if place is None or data_key is None:
            return self._inner.put(key, data, if_absent=if_absent, metadata=metadata)
        self._forget(key)
        return plain_info(
            self._inner.put(key, _sealed(place, data_key, data), if_absent=if_absent, metadata=metadata)
        )

    def open_upload(
        self, key: str, *, if_absent: bool = False, metadata: Mapping[str, str] = NO_METADATA
    ) -> Upload:
        place = _place_of(key)
        data_key = None if place is None else self._keys.key_to_write(place.backup_id)
        upload = self._inner.open_upload(key, if_absent=if_absent, metadata=metadata)
        if place is None or data_key is None:
            return upload
        self._forget(key)
        header = new_header(data_key.key_id)
        return SealedUpload(upload, key, Sealer(_cipher(data_key, header, b"", place), header))

    def get(self, key: str, *, max_bytes: int) -> bytes:
        place = _place_of(key)
        if place is None:
            return self._inner.get(key, max_bytes=max_bytes)
        data_key = self._keys.data_key(place.backup_id)
        if data_key is None:
            data = self._inner.get(key, max_bytes=max_bytes)
            self._keys.check_plain(place.backup_id, key, data[:HEADER_BYTES])
        else:
            data = self._again(key, lambda: self._open_whole(place, data_key, key, max_bytes))
        if place.path == MANIFEST_NAME and self._trust.public_keys:
            self._check_signature(place.backup_id, data, key)
        return data

    def read_range(self, key: str, start: int, length: int) -> bytes:
        check_range(key, start, length)
        place = _place_of(key)
        if place is None:
            return self._inner.read_range(key, start, length)
        data_key = self._keys.data_key(place.backup_id)
        if data_key is None:
            data = self._inner.read_range(key, start, length)
            self._keys.check_plain(place.backup_id, key, data[:HEADER_BYTES] if start == 0 else b"")
            return data
        return self._again(key, lambda: self._open_range(place, data_key, key, start, length))

    def head(self, key: str) -> ObjectInfo:
        info = self._inner.head(key)
        place = _place_of(key)
        if place is None or not self._keys.is_sealed(place.backup_id):
            return info
        return plain_info(info, open_bytes=self._open_bytes(place, info))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """See ObjectStore; where the prefix is not of one backup, sizes are as stored."""
        infos = self._inner.list(prefix)
        backup_id, separator, below = prefix.partition("/")
        if not separator or not is_backup_id(backup_id) or is_locks_path(below) or not self._keys.is_sealed(backup_id):
            return infos
        return self._list(infos)

    def delete(self, key: str) -> None:
        self._forget(key)
        self._inner.delete(key)

    def remove_leftovers(self, folder: str) -> int:
        return self._inner.remove_leftovers(folder)

    def check(self) -> None:
        self._inner.check()

    def close(self) -> None:
        self._inner.close()

    # -- how ------------------------------------------------------------------------------

    def _again(self, key: str, read: Callable[[], _T]) -> _T:
        """Read once more what came damaged: it may have been so on the way, or replaced between two requests."""
        try:
            return read()
        except (ObjectMissing, AccessDenied, ObjectTooLarge):
            raise
        except StorageError as error:
            if error.retriable:
                raise
        self._forget(key)
        return read()

    def _open_whole(self, place: _Place, data_key: DataKey, key: str, max_bytes: int) -> bytes:
        most_open = MAX_OPEN_BYTES if place.path == MANIFEST_NAME else 0
        data = memoryview(self._inner.get(key, max_bytes=sealed_bytes(max_bytes, open_bytes=most_open)))
        header = _header(bytes(data[:HEADER_BYTES]), key, data_key)
        position = header.body_position
        if plain_bytes(len(data), open_bytes=header.open_bytes) > max_bytes:
            raise ObjectTooLarge(f"{key} has more than the {max_bytes} bytes that are expected", object=key)
        cipher = _cipher(data_key, header, bytes(data[HEADER_BYTES:position]), place)
        return b"".join(
            open_chunks(cipher, data[position:], first=0, has_last=True, name=key, position=position)
        )

    def _open_range(self, place: _Place, data_key: DataKey, key: str, start: int, length: int) -> bytes:
        """Only the chunks that are asked for."""
        with self._lock:
            known = self._objects.get(key)
        if known is None:
            known = self._look(place, data_key, key)
        header, cipher, size = known
        if start + length > size:
            raise StorageError(f"{key} ends at byte {size}, before {start + length}", object=key)
        data = b""
        if length:
            first, last = start // CHUNK_BYTES, (start + length - 1) // CHUNK_BYTES
            has_last = (last + 1) * CHUNK_BYTES >= size
            begin = first * SEALED_CHUNK_BYTES
            end = size + TAG_BYTES * (last + 1) if has_last else (last + 1) * SEALED_CHUNK_BYTES
            position = header.body_position + begin
            sealed = self._inner.read_range(key, position, end - begin)
            chunks = open_chunks(cipher, sealed, first=first, has_last=has_last, name=key, position=position)
            skip = start - first * CHUNK_BYTES
            data = b"".join(chunks)[skip : skip + length]
        with self._lock:
            self._objects[key] = known
            if len(self._objects) > _KNOWN_OBJECTS:
                self._objects.popitem(last=False)
        return data

    def _look(self, place: _Place, data_key: DataKey, key: str) -> _Known:
        with self._lock:
            size = self._sizes.pop(key, None)
        stored = None if size is not None else self._inner.head(key).size_bytes
        header = _header(
            self._inner.read_range(key, 0, HEADER_BYTES if stored is None else min(stored, HEADER_BYTES)), key, data_key
        )
        open_part = self._inner.read_range(key, HEADER_BYTES, header.open_bytes) if header.open_bytes else b""
        if size is None:
            size = plain_bytes(stored or 0, open_bytes=header.open_bytes)
        return _Known(header, _cipher(data_key, header, open_part, place), size)

    def _open_bytes(self, place: _Place, info: ObjectInfo) -> int:
        if place.path != MANIFEST_NAME:
            return 0
        begin = self._inner.read_range(info.key, 0, min(info.size_bytes, HEADER_BYTES))
        return parse_header(begin, name=info.key).open_bytes

    def _list(self, infos: Iterator[ObjectInfo]) -> Iterator[ObjectInfo]:
        for info in infos:
            place = _place_of(info.key)
            if place is None:
                yield info
                continue
            try:
                open_bytes = self._open_bytes(place, info)
            except (StorageError, UnsupportedFormat) as error:  # who reads it is told
                if error.retriable:
                    raise
                open_bytes = 0
            yield plain_info(info, open_bytes=open_bytes)

    def _check_signature(self, backup_id: str, manifest: bytes, name: str) -> None:
        body = memoryview(manifest)[:-_MANIFEST_SEAL_BYTES]
        found = find_signature(body[-SUFFIX_BYTES:])
        digest = hashlib.sha256(body if found is None else body[:-SUFFIX_BYTES]).digest()
        self.check_signature(backup_id, found, digest, name=name)

    def _forget(self, key: str) -> None:
        with self._lock:
            self._objects.pop(key, None)
            self._sizes.pop(key, None)


class SealedTogetherStore(SealedStore):
    """Over a store that makes many uploads durable at less cost than one after the other."""

    def commit_together(self, uploads: Sequence[Upload]) -> Sequence[ObjectInfo | KbrError]:
        """See kbr.storage.base.CommitsTogether."""
        results: list[ObjectInfo | KbrError] = [_PENDING] * len(uploads)
        whole: list[tuple[int, Upload]] = []
        for number, upload in enumerate(uploads):
            if not isinstance(upload, SealedUpload):
                whole.append((number, upload))
                continue
            try:
                whole.append((number, upload.complete()))
            except KbrError as error:
                results[number] = error
        if not isinstance(self._inner, CommitsTogether):
            raise TypeError("the store below does not commit together")
        done = self._inner.commit_together([upload for _number, upload in whole])
        for (number, _upload), result in zip(whole, done, strict=True):
            is_sealed = isinstance(uploads[number], SealedUpload) and isinstance(result, ObjectInfo)
            results[number] = plain_info(result) if is_sealed and isinstance(result, ObjectInfo) else result
        return results


def seal_over(inner: ObjectStore, trust: Trust, *, known: Mapping[str, DataKey] | None = None) -> SealedStore:
    """The store over another one."""
    kind = SealedTogetherStore if isinstance(inner, CommitsTogether) else SealedStore
    return kind(inner, trust, known=known)


def _place_of(key: str) -> _Place | None:
    """Where an object lies, if it is one that is sealed in encrypted backups."""
    backup_id, separator, path = key.partition("/")
    if not separator or not path or path == KEYS_NAME or not is_backup_id(backup_id) or is_locks_path(path):
        return None
    return _Place(backup_id, path)


def _header(data: bytes, key: str, data_key: DataKey) -> Header:
    header = parse_header(data, name=key)
    if header.key_id != data_key.key_id:
        broken(key, 8, f"it was sealed with data key {header.key_id.hex()}, and the backup's is {data_key.key_id.hex()}")
    return header


def _cipher(data_key: DataKey, header: Header, open_part: bytes, place: _Place) -> ObjectCipher:
    from kbr.format.crypto import object_cipher

    info = key_info(header, open_part, backup_id=place.backup_id, path=place.path)
    return object_cipher(data_key.secret, salt=header.salt, info=info)


def _sealed(place: _Place, data_key: DataKey, data: bytes, open_part: bytes = b"") -> bytes:
    header = new_header(data_key.key_id, open_bytes=len(open_part))
    return seal_whole(_cipher(data_key, header, open_part, place), header, open_part, data)
