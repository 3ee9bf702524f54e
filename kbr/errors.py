"""Every error that kbr raises on purpose: one hierarchy, its exit codes and its facts.

Imports nothing from kbr but kbr.secrecy, by which no message and no hint shows a secret. Errors cross process boundaries,
so each one pickles with its message, hint and context. A message says what happened and where; ``hint`` says what to do.
"""

from __future__ import annotations

from typing import Any, ClassVar

from kbr.secrecy import redact

__all__ = [
    "AccessDenied",
    "AuthenticationFailed",
    "AuthorizationFailed",
    "BackupExists",
    "BackupMissing",
    "BlockIndexMissing",
    "BlockIndexUnreadable",
    "ClusterError",
    "ClusterUnavailable",
    "ConfigError",
    "CorruptSegment",
    "FetchFailed",
    "GroupActive",
    "GroupsMissing",
    "GroupsUnreadable",
    "Incomplete",
    "IntegrityError",
    "Interrupted",
    "KbrError",
    "Locked",
    "LogReplaced",
    "ManifestUnreadable",
    "NotAnObject",
    "NotEncrypted",
    "ObjectMissing",
    "ObjectTooLarge",
    "OffsetMapMissing",
    "OffsetMapUnreadable",
    "OffsetOutOfRange",
    "PreconditionFailed",
    "PreflightRefused",
    "ProduceFailed",
    "RepositoryError",
    "RestoreStateUnreadable",
    "RunMissing",
    "SealBroken",
    "SignatureInvalid",
    "StorageError",
    "StoreFull",
    "StoreUnavailable",
    "TargetChanged",
    "TopicMissing",
    "TopicNotEmpty",
    "UnsupportedFormat",
    "UsageError",
    "WorkerBootFailed",
    "WorkerCrashed",
    "WorkerError",
    "WrongKey",
]


class KbrError(Exception):
    """Base of all errors that kbr raises on purpose.

    Args:
        message: what happened and where, lower case, without a final stop.
        hint: a sentence that says what the user can do, or an empty string.
        context: facts for programs (topic, partition, offset, object, ...); must pickle.
    """

    #: Process exit code (DESIGN section 7); every code not listed in the docs is a failure.
    exit_code: ClassVar[int] = 1
    #: Whether running the same command again later can succeed without a change.
    retriable: ClassVar[bool] = False

    def __init__(self, message: str, /, *, hint: str = "", **context: Any) -> None:
        message = redact(message)
        super().__init__(message)
        self.message = message
        self.hint = redact(hint)
        self.context = context

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.message, self.hint, self.context))

    @property
    def id(self) -> str:
        """The class name, the stable identifier in JSON output."""
        return type(self).__name__

    def __str__(self) -> str:
        return self.message


def _rebuild(cls: type[KbrError], message: str, hint: str, context: dict[str, Any]) -> KbrError:
    return cls(message, hint=hint, **context)


class UsageError(KbrError):
    """The command line is wrong."""

    exit_code = 2


class ConfigError(KbrError):
    """The configuration is wrong; the message names file, line and key."""

    exit_code = 2


class Incomplete(KbrError):
    """The run finished, but gaps or failed partitions remain."""

    exit_code = 3


class IntegrityError(KbrError):
    """Stored data is not what it has to be."""

    exit_code = 4


class CorruptSegment(IntegrityError):
    """A segment object is truncated, altered or claims absurd sizes; context: object, position."""


class RunMissing(KbrError):
    """No running kbr is the one that was asked for."""

    exit_code = 10


class Interrupted(KbrError):
    """The user stopped the run; what was committed is kept."""

    exit_code = 130


class PreflightRefused(KbrError):
    """A check before the first write found that the run would do harm."""

    exit_code = 13


class GroupActive(PreflightRefused):
    """A consumer group has members: its offsets are not changed; context: groups."""


class GroupRewind(PreflightRefused):
    """Offsets that consumer groups have committed would move back; context: groups."""


# -- repository ---------------------------------------------------------------------------


class RepositoryError(KbrError):
    """The backup as a whole can't be used."""


class BackupMissing(RepositoryError):
    """There is no backup of that id at that place."""

    exit_code = 10


class BackupExists(RepositoryError):
    """The backup_id is taken."""

    exit_code = 13


class Locked(RepositoryError):
    """Somebody else is writing this backup."""

    exit_code = 11


class ManifestUnreadable(RepositoryError):
    """A manifest exists but can't be read: never the same as no backup."""

    exit_code = 4


class RestoreStateUnreadable(RepositoryError):
    """What an earlier run of the same restore noted exists but can't be read: never the same as a first run."""

    exit_code = 4


class OffsetMapMissing(RepositoryError):
    """A restore has no offset mapping, or a backup no restore."""

    exit_code = 10


class OffsetMapUnreadable(RepositoryError):
    """A restore's offset mapping exists but can't be read: never the same as none."""

    exit_code = 4


class BlockIndexMissing(RepositoryError):
    """The backup has no block index."""

    exit_code = 10


class BlockIndexUnreadable(RepositoryError):
    """A block index exists but can't be read, or says another thing than the manifest: it is never believed then."""

    exit_code = 4


class GroupsMissing(RepositoryError):
    """The backup holds no consumer group offsets, or there is nothing to roll back to."""

    exit_code = 10


class GroupsUnreadable(RepositoryError):
    """Consumer group offsets are there but can't be read: never the same as none."""

    exit_code = 4


class UnsupportedFormat(RepositoryError):
    """Written by a newer kbr, or by something else."""


class WrongKey(RepositoryError):
    """The backup is encrypted, and nothing that was given opens it; context: key_ids, of what would."""

    exit_code = 12


class NotEncrypted(RepositoryError):
    """The backup is not encrypted, and whoever reads it wants it to be."""

    exit_code = 13


class SignatureInvalid(ManifestUnreadable):
    """A manifest is not signed by any of the keys that are trusted, or was altered since."""


# -- cluster ------------------------------------------------------------------------------


class ClusterError(KbrError):
    """Kafka said no, or nothing."""


class ClusterUnavailable(ClusterError):
    """No broker answered within the deadline."""

    exit_code = 5
    retriable = True


class AuthenticationFailed(ClusterError):
    """The brokers rejected the credentials or the TLS handshake."""


class AuthorizationFailed(ClusterError):
    """A right is missing; the message names it."""


class TopicMissing(ClusterError):
    """A named topic does not exist."""


class TopicNotEmpty(PreflightRefused):
    """A restore target holds records that are not this restore's, and appending was not asked for.

    Context: topic, partition, and where they are known target_offset and source_offset of the first difference.
    """


class TargetChanged(ClusterError):
    """Another producer writes into a restore's target; context: topic, partition, offset (the target's)."""

    exit_code = 13


class OffsetOutOfRange(ClusterError):
    """A position is not (or no longer) in the partition's log."""


class LogReplaced(ClusterError):
    """A log holds another record at an offset than the one that was read there; context: topic, partition, offset."""


class FetchFailed(ClusterError):
    """A partition could not be read to its end; context: topic, partition, offset."""


class ProduceFailed(ClusterError):
    """A record could not be written; context: topic, partition, offset."""


# -- storage ------------------------------------------------------------------------------


class StorageError(KbrError):
    """The object store or filesystem failed; context: object, operation."""


class StoreUnavailable(StorageError):
    """The store did not answer, or answered with temporary errors, until the deadline."""

    exit_code = 5
    retriable = True


class AccessDenied(StorageError):
    """The store rejected the credentials or a right is missing."""


class ObjectMissing(StorageError):
    """An object that has to be there is not."""


class NotAnObject(StorageError):
    """Something else stands where an object has to be: a symbolic link, a pipe, a device. Never followed, nor read."""

    exit_code = 4


class ObjectTooLarge(StorageError):
    """An object is larger than anything that kbr writes there: it is not read."""

    exit_code = 4


class PreconditionFailed(StorageError):
    """A conditional write found the object already there."""


class StoreFull(StorageError):
    """No space, or a quota, on the target."""


class SealBroken(IntegrityError, StorageError):
    """An encrypted object is not what was written there: damaged, cut off, swapped; context: object, position (as stored)."""


# -- workers ------------------------------------------------------------------------------


class WorkerError(KbrError):
    """A worker process did not do its task."""


class WorkerCrashed(WorkerError):
    """A worker process died: signal, exit code or out of memory."""

    retriable = True


class WorkerBootFailed(WorkerError):
    """A worker process failed before it could take a task."""
