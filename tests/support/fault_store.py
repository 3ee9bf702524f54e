"""A store with scripted faults and a trace: every operation has a name, and any of them can be made to go wrong.

Operations are told apart by what they are, on which key, and how often that came before ("commit t/…/segment-0 1"),
not by their number alone: threads may swap places from run to run, an operation's name stays.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple

from kbr.errors import KbrError, StoreUnavailable
from kbr.storage.base import NO_METADATA, CommitsTogether, ObjectInfo, ObjectStore, StoreProperties, Upload

__all__ = ["Fault", "FaultStore", "Killed", "Operation", "Script", "chosen", "open_view"]


#: Parts of keys that are another in every run.
_RANDOM_NAME = re.compile(r"[0-9]{13}-[0-9a-f]{16}|(?<=restores/)[0-9a-f]{32}|(?<=blocks-)[0-9a-f]{32}")


class Fault(Enum):
    """What can go wrong with one operation."""

    #: Nothing is done; the caller is told.
    FAIL_BEFORE = "fail before"
    #: It is done, and the caller is told that it failed.
    LOSE_REPLY = "lose the reply"
    #: The process is gone before it is done.
    KILL_BEFORE = "kill before"
    #: It is done, and the process is gone.
    KILL_AFTER = "kill after"
    #: Half of it is done: half the bytes are in the temp file, half of the listing came; then the process is gone.
    PARTLY = "do it partly"


class Killed(BaseException):
    """The process ended here, as by SIGKILL. No Exception: nothing that handles errors may live on by it."""


class Operation(NamedTuple):
    """One operation of a run."""

    name: str
    key: str
    #: How often the same was asked for before.
    repeat: int

    def __str__(self) -> str:
        return f"{self.name} {self.key} #{self.repeat}"


@dataclass
class Script:
    """What is to go wrong in one run, and what was asked for; shared by all views of a run.

    Attributes:
        at: the operation that the fault hits; None for none.
        whole_tree: a worker's kill is everybody's; else only its own.
        trace: all operations, in the order in which they began.
        fired: whether the operation came.
    """

    at: Operation | None = None
    fault: Fault | None = None
    whole_tree: bool = True
    trace: list[Operation] = field(default_factory=list)
    fired: bool = False
    dead: bool = False
    _counts: dict[tuple[str, str], int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def begins(self, name: str, key: str) -> Fault | None:
        """Note an operation; the fault that hits it, if any."""
        key = _RANDOM_NAME.sub("*", key)
        with self._lock:
            repeat = self._counts.get((name, key), 0)
            self._counts[name, key] = repeat + 1
            operation = Operation(name, key, repeat)
            self.trace.append(operation)
            if operation == self.at and not self.fired:
                self.fired = True
                return self.fault
        return None


def chosen(
    trace: Sequence[Operation], fault: Fault, *, everything: bool, shift: int = 0, every: int = 3
) -> list[tuple[int, Operation]]:
    """Operations to disturb with a fault, with their numbers: all, or each third one, say.

    Which ones depends on the fault, so that the five faults together hit each operation; and on ``shift``, which tells
    apart situations that have the same operations.

    Args:
        every: at most as many as there are faults.
    """
    first = (list(Fault).index(fault) + shift) % every
    return [(number, one) for number, one in enumerate(trace) if everything or number % every == first]


def open_view(inner: ObjectStore, script: Script, *, is_worker: bool = False) -> FaultStore:
    """A process's view of a store: it commits together if the store does."""
    kind = _TogetherFaultStore if isinstance(inner, CommitsTogether) else FaultStore
    return kind(inner, script, is_worker=is_worker)


class FaultStore:
    """One process's view of a store. Once the process is dead, nothing that it does has any effect."""

    def __init__(self, inner: ObjectStore, script: Script, *, is_worker: bool) -> None:
        self._inner = inner
        self._script = script
        self._is_worker = is_worker
        self._dead = False
        self._uploads: list[_FaultUpload] = []

    def __getattr__(self, name: str) -> Any:
        """Whatever else the store offers, as one operation with its first argument for a key."""
        inner = getattr(self._inner, name)
        if not callable(inner):
            return inner

        def call(*arguments: Any, **named: Any) -> Any:
            key = arguments[0] if arguments and isinstance(arguments[0], str) else ""
            return self.step(name, key, lambda: inner(*arguments, **named))

        return call

    # -- the process ----------------------------------------------------------------------

    @property
    def is_dead(self) -> bool:
        """Whether its process was killed."""
        return self._dead or self._script.dead

    def check_alive(self) -> None:
        """Raise Killed if its process was killed."""
        if self.is_dead:
            raise Killed

    def kill(self) -> None:
        """End the process; with it all others, if it is the supervisor or the script says so."""
        self._dead = True
        if self._script.whole_tree or not self._is_worker:
            self._script.dead = True

    def kill_alone(self) -> None:
        """End this process and no other."""
        self._dead = True

    def bury(self) -> None:
        """Close what the kernel would close of a dead process; its temp files stay."""
        for upload in self._uploads:
            upload.forget()

    def step(self, name: str, key: str, action, partly=None, *, hit=None, error=None):
        """One operation, with the fault that hits it.

        Args:
            action, partly: do it, do half of it.
            hit: does it instead of ``action`` where a fault follows.
            error: makes the error of (name, key); the store's is the usual one.
        """
        self.check_alive()
        fault = self._script.begins(name, key)
        if fault is None:
            return action()
        fail, hit = error or _unavailable, hit or action
        if fault is Fault.FAIL_BEFORE:
            raise fail(name, key)
        if fault is Fault.LOSE_REPLY:
            hit()
            raise fail(name, key)
        if fault is Fault.KILL_AFTER:
            hit()
        elif fault is Fault.PARTLY and partly is not None:
            partly()
        self.kill()
        raise Killed

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
        def half() -> None:
            upload = _FaultUpload(self, key, self._inner.open_upload(key, metadata=metadata))
            self._uploads.append(upload)
            upload.inner.write(data[: len(data) // 2])

        return self.step("put", key, lambda: self._inner.put(key, data, if_absent=if_absent, metadata=metadata), half)

    def open_upload(self, key: str, **options: Any) -> Upload:
        def opened() -> _FaultUpload:
            upload = _FaultUpload(self, key, self._inner.open_upload(key, **options))
            self._uploads.append(upload)
            return upload

        return self.step("open_upload", key, opened)

    def get(self, key: str, *, max_bytes: int) -> bytes:
        return self.step("get", key, lambda: self._inner.get(key, max_bytes=max_bytes))

    def read_range(self, key: str, start: int, length: int) -> bytes:
        return self.step("read_range", key, lambda: self._inner.read_range(key, start, length))

    def head(self, key: str) -> ObjectInfo:
        return self.step("head", key, lambda: self._inner.head(key))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        self.check_alive()
        fault = self._script.begins("list", prefix)
        found = list(self._inner.list(prefix))
        return self._listing(prefix, found, fault)

    def _listing(self, prefix: str, found: Sequence[ObjectInfo], fault: Fault | None) -> Iterator[ObjectInfo]:
        if fault is Fault.KILL_BEFORE:
            self.kill()
        if fault is Fault.FAIL_BEFORE:
            raise _unavailable("list", prefix)
        # a listing that breaks half-way tells so: here half of it is not a death, which would teach nothing new
        stop_at = len(found) // 2 if fault is Fault.PARTLY else len(found)
        for info in found[:stop_at]:
            self.check_alive()
            yield info
        self.check_alive()
        if fault in (Fault.PARTLY, Fault.LOSE_REPLY):
            raise _unavailable("list", prefix)
        if fault is Fault.KILL_AFTER:
            self.kill()
            raise Killed

    def delete(self, key: str) -> None:
        self.step("delete", key, lambda: self._inner.delete(key))

    def check(self) -> None:
        self.check_alive()
        self._inner.check()

    def close(self) -> None:
        """The inner one goes on for other views."""


class _TogetherFaultStore(FaultStore):
    """The same for a store that commits together: each of its commits is an operation."""

    def commit_together(self, uploads: Sequence[Upload]) -> Sequence[ObjectInfo | KbrError]:
        results: list[ObjectInfo | KbrError] = []
        for upload in uploads:
            assert isinstance(upload, _FaultUpload)
            try:
                results.append(upload.commit())
            except KbrError as error:
                results.append(error)
        return results


class _FaultUpload:
    """One upload of a view."""

    def __init__(self, store: FaultStore, key: str, inner: Upload) -> None:
        self._store = store
        self._key = key
        self.inner = inner

    def write(self, data: bytes | memoryview) -> None:
        view = memoryview(data).cast("B")
        self._ended_by_errors("write", lambda: self.inner.write(view), lambda: self.inner.write(view[: len(view) // 2]))

    def commit(self) -> ObjectInfo:
        return self._ended_by_errors("commit", self.inner.commit, None)

    def abort(self) -> None:
        if not self._store.is_dead:
            self.inner.abort()

    def forget(self) -> None:
        """See FaultStore.bury()."""
        descriptor = getattr(self.inner, "_descriptor", -1)
        if descriptor >= 0:
            os.close(descriptor)
            self.inner._descriptor = -1  # type: ignore[attr-defined]

    def _ended_by_errors(self, name: str, action, partly):
        try:
            return self._store.step(name, self._key, action, partly)
        except KbrError:
            self.abort()  # an upload whose write() or commit() raised has let go of what it held
            raise


def _unavailable(name: str, key: str) -> StoreUnavailable:
    return StoreUnavailable(f"{name} of {key}: the store does not answer (a fault of the test)", object=key)
