"""Tries on a store what a run will do there: lists, writes, reads back and compares, deletes. Leaves nothing behind.

Its objects have names that no backup can have, so that no listing of backups shows them.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from kbr.errors import AccessDenied, KbrError, ObjectMissing, StorageError
from kbr.maintain.probe import Outcome, ProbeLine, of_error
from kbr.storage.base import ObjectStore
from kbr.storage.probing import Probed

__all__ = ["PROBE_NAME", "probe_store"]

#: How names of a probe's objects begin: "~" can't be in a backup_id.
PROBE_NAME = "~kbr-check-"
#: Small, and larger than what servers that store aws-chunked framing would add to it.
_BYTES = 4096
_METADATA = {"kbr-check": "yes"}
_READERS = ("backup", "restore", "verify")
_WRITERS = ("backup",)


@dataclass(slots=True)
class _Probe:
    """One probe of one store.

    Attributes:
        rights: whether S3's names of rights mean something there.
        backup_folder: of the backup that a run will write, which may be another user's; empty where that is not known.
    """

    store: ObjectStore
    part_bytes: int
    rights: bool
    backup_folder: str = ""
    name: str = field(default_factory=lambda: f"{PROBE_NAME}{secrets.token_hex(6)}")
    data: bytes = field(default_factory=lambda: os.urandom(_BYTES))
    written: list[str] = field(default_factory=list)

    @property
    def key(self) -> str:
        """On S3 the name of a segment, so that it is kept as one; elsewhere one without folders, which would stay."""
        if self.rights:
            return f"{self.name}/topics/check/partition=0/segment-{0:020d}.zst"
        return self.name

    def lines(self) -> Iterator[ProbeLine]:
        """One after the other, as it is done."""
        try:
            self.store.check()
            there = list(self.store.list(PROBE_NAME))
        except KbrError as error:
            yield self._of_error(error, "list", _READERS, "s3:ListBucket")
            if not isinstance(error, AccessDenied):  # it can't be reached, or there is no such bucket
                return
        else:
            left = f"; {len(there)} objects of earlier checks are left ({PROBE_NAME}…)" if there else ""
            yield self._ok("list", _READERS, "s3:ListBucket", self.store.url + left)
        yield from self._small_object()
        if self.rights:
            yield from self._parts()
        elif self.backup_folder:
            yield from self._into_the_backup()
        yield from self._condition()
        yield from self._removal()

    def _small_object(self) -> Iterator[ProbeLine]:
        try:
            self.written.append(self.key)
            self.store.put(self.key, self.data, metadata=_METADATA)
        except AccessDenied as error:
            if error.context.get("operation") != "head":  # it is there, and may not be looked at
                yield self._of_error(error, "write", _WRITERS, "s3:PutObject")
                self.written.remove(self.key)
                yield from self._unread()
                return
            yield self._ok("write", _WRITERS, "s3:PutObject")
        except KbrError as error:
            yield self._of_error(error, "write", _WRITERS, "s3:PutObject")
            if not self._is_there():
                yield from self._unread()
                return
        else:
            yield self._ok("write", _WRITERS, "s3:PutObject")
        yield self._tried("look at", _READERS, "s3:GetObject", self._look)
        yield self._tried("read back", _READERS, "s3:GetObject", self._read_back)
        yield self._tried("read a range", _READERS, "s3:GetObject", self._read_range)
        yield from self._options()

    def _look(self) -> str:
        info = self.store.head(self.key)
        if info.size_bytes != len(self.data):
            raise _differs(f"has {info.size_bytes} bytes after {len(self.data)} were written")
        if self.store.properties.keeps_metadata and {**info.metadata, **_METADATA} != dict(info.metadata):
            raise StorageError(
                "the server does not keep metadata",
                hint="writes whose reply is lost can't be told from another writer's: use a server that keeps x-amz-meta-…",
            )
        return ""

    def _read_back(self) -> str:
        # twice as much: framing that was stored as content makes it larger
        if self.store.get(self.key, max_bytes=2 * len(self.data)) != self.data:
            raise _differs("is not what was written")
        return f"{len(self.data)} bytes, as they were written"

    def _read_range(self) -> str:
        start, length = len(self.data) // 3, 100
        if self.store.read_range(self.key, start, length) != self.data[start : start + length]:
            raise _differs(f"has other bytes from {start} on")
        return ""

    def _options(self) -> Iterator[ProbeLine]:
        if not isinstance(self.store, Probed):
            return
        try:
            kept = self.store.kept_options(self.key)
        except KbrError:
            return  # the same HEAD has its line already
        for option, shown in kept.items():
            if not shown and option.startswith("storage.sse"):
                continue  # the write has failed for it, and says so
            detail = "followed" if shown else "taken, and the server does not show that it follows it"
            yield self._line(option, Outcome.OK if shown else Outcome.NOTE, (), "", detail)

    def _parts(self) -> Iterator[ProbeLine]:
        """An object of two parts; not one that is kept as a segment is: it might have to stay for years."""
        key = f"{self.name}/parts"
        rights = "s3:PutObject"
        size = self.part_bytes + 1

        def write() -> str:
            upload = self.store.open_upload(key)
            try:
                upload.write(bytes(size))
                upload.commit()
            finally:
                upload.abort()
            end = self.store.read_range(key, size - 100, 100)
            if end != bytes(100):
                raise _differs("of two parts is not what was written")
            return f"{size} bytes"

        self.written.append(key)
        line = self._tried("write in parts", _WRITERS, rights, write)
        yield line

    def _into_the_backup(self) -> Iterator[ProbeLine]:
        """In folders, each one has rights of its own: only in a backup that is there, as a folder that is made would stay."""
        key = f"{self.backup_folder}{self.name}"

        def write() -> str:
            if next(iter(self.store.list(self.backup_folder)), None) is None:
                return "there is none yet"
            self.written.append(key)
            self.store.put(key, self.data, metadata=_METADATA)
            return self.backup_folder

        line = self._tried("write into the backup", _WRITERS, "", write)
        if line.outcome is not Outcome.OK and not self._is_there(key):
            self.written = [one for one in self.written if one != key]
        yield line

    def _condition(self) -> Iterator[ProbeLine]:
        """For people: kbr keeps writers apart by locks as well, whatever comes out."""
        kept: bool | None
        if not self._is_there():
            return
        if isinstance(self.store, Probed):
            try:
                kept = self.store.condition_kept(self.key)
            except KbrError as error:
                yield self._of_error(error, "write only if absent", (), "")
                return
        else:
            kept = self.store.properties.honours_if_absent
        words = {True: "honoured", False: "ignored: locks keep writers apart", None: "refused: locks keep writers apart"}
        yield self._line("write only if absent", Outcome.NOTE, (), "", words[kept])

    def _removal(self) -> Iterator[ProbeLine]:
        left, first = [], None
        for key in self.written:
            try:
                self.store.delete(key)
            except KbrError as error:
                left.append(key)
                first = first or error
        if not self.written:
            return
        if first is None:
            yield self._ok("delete", ("prune",), "s3:DeleteObject")
            return
        line = self._of_error(first, "delete", ("prune",), "s3:DeleteObject")
        stays = ", ".join(key for key in left if self._is_there(key)) or "nothing"
        yield self._line("delete", line.outcome, ("prune",), line.right, f"{line.detail}; left behind: {stays}", hint=line.hint, exit_code=line.exit_code)

    def _is_there(self, key: str | None = None) -> bool:
        """Whether an object of ours may be there: what can't be looked at may be."""
        wanted = key or self.key
        if wanted not in self.written:
            return False
        try:
            self.store.head(wanted)
        except ObjectMissing:
            return False
        except KbrError:
            return True
        return True

    def _unread(self) -> Iterator[ProbeLine]:
        """What can't be tried without an object; but that nothing is there can be seen."""
        nothing = "nothing is there, and that may be seen"
        looks: dict[str, Callable[[], object]] = {
            "look at": lambda: self.store.head(self.key),
            "read back": lambda: self.store.get(self.key, max_bytes=1),
        }
        for check, look in looks.items():
            try:
                look()
            except ObjectMissing:
                yield self._ok(check, _READERS, "s3:GetObject", nothing)
            except KbrError as error:
                yield self._of_error(error, check, _READERS, "s3:GetObject")
        yield self._line("read a range", Outcome.SKIPPED, _READERS, "s3:GetObject", "nothing was written")

    # -- lines ----------------------------------------------------------------------------

    def _tried(self, check: str, needed_for: tuple[str, ...], right: str, function: Callable[[], str]) -> ProbeLine:
        try:
            return self._ok(check, needed_for, right, function())
        except KbrError as error:
            return self._of_error(error, check, needed_for, right)

    def _ok(self, check: str, needed_for: tuple[str, ...], right: str, detail: str = "") -> ProbeLine:
        return self._line(check, Outcome.OK, needed_for, right, detail)

    def _of_error(self, error: KbrError, check: str, needed_for: tuple[str, ...], right: str) -> ProbeLine:
        right = right if self.rights else ""
        return of_error(error, place="storage", check=check, needed_for=needed_for, right=right)

    def _line(
        self,
        check: str,
        outcome: Outcome,
        needed_for: tuple[str, ...],
        right: str,
        detail: str,
        *,
        hint: str = "",
        exit_code: int = 0,
    ) -> ProbeLine:
        return ProbeLine(
            place="storage",
            check=check,
            outcome=outcome,
            needed_for=needed_for,
            right=right if self.rights else "",
            detail=detail,
            hint=hint,
            exit_code=exit_code,
        )


def probe_store(store: ObjectStore, *, part_bytes: int, backup_folder: str = "") -> list[ProbeLine]:
    """Try everything that a run does in a store.

    Args:
        part_bytes: above this an object goes in parts, on S3.
        backup_folder: of the backup that a run will write; tried, too, where folders have rights of their own.

    Returns:
        A line for each thing, in the order in which they were tried; errors are lines.
    """
    return list(_Probe(store=store, part_bytes=part_bytes, rights=isinstance(store, Probed), backup_folder=backup_folder).lines())


def _differs(what: str) -> StorageError:
    return StorageError(
        f"an object {what}",
        hint="the server changes what it stores (some keep aws-chunked framing as content): it is not safe for backups",
    )
