"""A backup that is open for reading: what `kbr cat` prints, and what programs get from `kbr.open_backup`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from types import TracebackType
from typing import Any, NamedTuple, TypeAlias

from kbr.app.inspect import catalog_of, opened_store
from kbr.app.wiring import storage_options
from kbr.config import Config, load_config
from kbr.config.values import parse_instant
from kbr.errors import UsageError
from kbr.model import Record, TimestampType, TopicPartition
from kbr.reading.archive import Archive
from kbr.reading.native import NativeArchive
from kbr.reading.records import read_window
from kbr.reading.selecting import gap_notes, select_partitions
from kbr.repository.window import MAX_OFFSET, TimeWindow, Window
from kbr.storage import ObjectStore, open_store
from kbr.telemetry.logs import get_logger

__all__ = ["Backup", "BackupRecord", "Instant", "open_backup", "opened_backup"]

_log = get_logger("kbr.reading")
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)

#: Milliseconds since the epoch, ISO-8601 with a zone, or a datetime with one.
Instant: TypeAlias = int | str | datetime


class BackupRecord(NamedTuple):
    """One record, exact, with the partition that it was in.

    ``timestamp`` is milliseconds since the epoch, -1 for none. Keys, values and header values may be None, which is
    Kafka's null; a header's name is the bytes that it was.
    """

    topic: str
    partition: int
    offset: int
    timestamp: int
    timestamp_type: TimestampType
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[bytes, bytes | None], ...]


class Backup:
    """A backup as it was when it was opened; a context manager. Not for more than one thread.

    All methods that read take the same selection:

    - ``topics``: a name or glob, or several; none is all. ``partitions``: a number, or several, of each of them;
      of topics that are not named by their names, those that have them.
    - ``from_timestamp``, ``to_timestamp``: both ends included. A record without a timestamp is in a window only if that
      is open at its start. Records that are out of order are found.
    - ``from_offset``, ``to_offset``: both ends included; a negative ``from_offset`` counts from the end of what the
      backup answers for, in each partition.
    - ``limit``: no more records than these, all partitions together.

    Records come by topic, partition and offset. One block is held at a time, and no more is fetched from the store than
    the blocks that can hold such records. Reading raises UsageError for what the backup has not, IntegrityError where it
    is damaged, StorageError where it can't be read.
    """

    def __init__(self, archive: Archive, store: ObjectStore | None = None) -> None:
        self._archive = archive
        self._store = store

    def __enter__(self) -> Backup:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave the store; again is fine."""
        if self._store is not None:
            self._store.close()
            self._store = None

    @property
    def backup_id(self) -> str:
        """The backup's name."""
        return self._archive.backup_id

    @property
    def topics(self) -> tuple[str, ...]:
        """Names of its topics, sorted."""
        return tuple(self._archive.topics())

    def partition_count(self, topic: str) -> int:
        """How many partitions a topic has.

        Raises:
            UsageError: the backup has no such topic.
        """
        return len(select_partitions(self._archive, [topic]))

    def offsets(self, topic: str, partition: int) -> tuple[int, int]:
        """The first offset that the backup answers for, and the first one behind those that it does.

        Raises:
            UsageError: the backup has no such partition.
        """
        (key,) = select_partitions(self._archive, [topic], [partition])
        found = self._archive.partition(key)
        return found.start_offset, found.next_offset

    def blocks(
        self,
        topics: str | Sequence[str] = (),
        partitions: int | Sequence[int] = (),
        *,
        from_timestamp: Instant | None = None,
        to_timestamp: Instant | None = None,
        from_offset: int | None = None,
        to_offset: int | None = None,
        limit: int | None = None,
    ) -> Iterator[tuple[TopicPartition, Sequence[Record]]]:
        """Records with their partition, as many at a time as one block has of the window: the fastest of these."""
        if limit is not None and limit < 0:
            raise UsageError(f"the limit is {limit}: it must be 0 or more")
        times = TimeWindow.between(_milliseconds(from_timestamp), _milliseconds(to_timestamp))
        if times.start_ms > times.end_ms:
            raise UsageError(f"the time window ends before it begins: {times}")
        keys = select_partitions(
            self._archive,
            [topics] if isinstance(topics, str) else topics,
            [partitions] if isinstance(partitions, int) else partitions,
        )
        return self._blocks(keys, times, from_offset, to_offset, limit)

    def _blocks(
        self,
        keys: Sequence[TopicPartition],
        times: TimeWindow,
        from_offset: int | None,
        to_offset: int | None,
        limit: int | None,
    ) -> Iterator[tuple[TopicPartition, Sequence[Record]]]:
        left = limit
        for key in keys:
            if left is not None and left <= 0:
                return
            partition = self._archive.partition(key)
            start = from_offset or 0
            window = Window(
                times=times,
                start_offset=start if start >= 0 else max(0, partition.next_offset + start),
                end_offset_exclusive=MAX_OFFSET if to_offset is None else to_offset + 1,
            )
            for note in gap_notes(partition, window):
                _log.warning("%s", note)
            for records in read_window(self._archive, key, window, most=left):
                if left is not None:
                    left -= len(records)
                yield key, records

    def records(
        self,
        topics: str | Sequence[str] = (),
        partitions: int | Sequence[int] = (),
        *,
        from_timestamp: Instant | None = None,
        to_timestamp: Instant | None = None,
        from_offset: int | None = None,
        to_offset: int | None = None,
        limit: int | None = None,
    ) -> Iterator[BackupRecord]:
        """Records one by one."""
        blocks = self.blocks(
            topics,
            partitions,
            from_timestamp=from_timestamp,
            to_timestamp=to_timestamp,
            from_offset=from_offset,
            to_offset=to_offset,
            limit=limit,
        )
        return (
            BackupRecord(
                key.topic,
                key.partition,
                one.offset,
                one.timestamp,
                TimestampType(one.timestamp_type),
                one.key,
                one.value,
                one.headers,
            )
            for key, records in blocks
            for one in records
        )

    def arrow_batches(
        self,
        topics: str | Sequence[str] = (),
        partitions: int | Sequence[int] = (),
        *,
        from_timestamp: Instant | None = None,
        to_timestamp: Instant | None = None,
        from_offset: int | None = None,
        to_offset: int | None = None,
        limit: int | None = None,
    ) -> Iterator[Any]:
        """Records as ``pyarrow.RecordBatch``, one of each block: for what is larger than memory.

        The columns: topic, partition, offset, timestamp (ms, UTC; null for none), timestamp_type, key, value, headers.
        """
        from kbr.format.arrow import record_batch  # pyarrow takes half a second to import

        blocks = self.blocks(
            topics,
            partitions,
            from_timestamp=from_timestamp,
            to_timestamp=to_timestamp,
            from_offset=from_offset,
            to_offset=to_offset,
            limit=limit,
        )
        return (record_batch(key, records) for key, records in blocks)

    def arrow_table(
        self,
        topics: str | Sequence[str] = (),
        partitions: int | Sequence[int] = (),
        *,
        from_timestamp: Instant | None = None,
        to_timestamp: Instant | None = None,
        from_offset: int | None = None,
        to_offset: int | None = None,
        limit: int | None = None,
    ) -> Any:
        """Records as one ``pyarrow.Table``, all of them in memory."""
        from kbr.format.arrow import record_table

        return record_table(
            self.arrow_batches(
                topics,
                partitions,
                from_timestamp=from_timestamp,
                to_timestamp=to_timestamp,
                from_offset=from_offset,
                to_offset=to_offset,
                limit=limit,
            )
        )


@contextmanager
def opened_backup(config: Config, backup_id: str) -> Iterator[Backup]:
    """A backup at the configured place, while it is needed.

    Raises:
        BackupMissing: there is none of that id.
        ManifestUnreadable: its manifest is damaged.
        StorageError: the store failed.
    """
    with opened_store(config) as store:
        yield Backup(_archive(store, config, backup_id))


def open_backup(
    url: str | os.PathLike[str],
    backup_id: str | None = None,
    *,
    encryption: Mapping[str, object] | None = None,
    signing: Mapping[str, object] | None = None,
    **storage: object,
) -> Backup:
    """Open a backup for reading.

    Args:
        url: where backups lie: a folder (a path, too) or ``s3://bucket/prefix``; without ``backup_id`` its last part is that.
        backup_id: the backup's name.
        encryption, signing: keys of these sections of the configuration, such as ``{"key": ...}`` of an encrypted backup.
        storage: keys of the configuration's ``storage`` section, such as ``endpoint``, ``access_key``, ``secret_key``
            and ``region``. What is not given comes from KBR_STORAGE_... variables, then from where boto looks.

    Raises:
        ConfigError: the place makes no sense.
        BackupMissing: there is no such backup.
        ManifestUnreadable: its manifest is damaged, or not signed by who has to.
        WrongKey, NotEncrypted: it is encrypted, and the keys don't open it; or it is not, and they were given.
        StorageError: the store can't be reached or read.
    """
    url = os.fspath(url)
    place, name = (url, backup_id) if backup_id is not None else _split(url)
    overrides: dict[str, object] = {"storage.url": place}
    for section, values in (("storage", storage), ("encryption", encryption), ("signing", signing)):
        overrides.update({f"{section}.{key}": value for key, value in (values or {}).items()})
    config = load_config(None, overrides=overrides, environ=os.environ)
    store = open_store(storage_options(config))
    try:
        store.check()
        return Backup(_archive(store, config, name), store)
    except BaseException:
        store.close()
        raise


def _archive(store: ObjectStore, config: Config, backup_id: str) -> Archive:
    return NativeArchive(store, catalog_of(store, config).load(backup_id), max_block_bytes=config.limits.max_block_bytes)


def _split(url: str) -> tuple[str, str]:
    place, _, name = url.rstrip("/").rpartition("/")
    scheme_only = place.endswith((":/", "://"))
    if not name or scheme_only:
        raise UsageError(f"{url!a} names no backup", hint="write it as PLACE/BACKUP_ID, or give backup_id too")
    return place or ("/" if url.startswith("/") else "."), name


def _milliseconds(instant: Instant | None) -> int | None:
    if instant is None:
        return None
    if isinstance(instant, datetime):
        if instant.tzinfo is None:
            raise UsageError(f"{instant.isoformat()} has no time zone: give the datetime a tzinfo")
        return (instant - _EPOCH) // timedelta(milliseconds=1)
    try:
        return parse_instant(instant)
    except ValueError as error:
        raise UsageError(str(error)) from error
