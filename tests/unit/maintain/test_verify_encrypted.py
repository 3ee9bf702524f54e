"""Verification of encrypted backups: all of it with a key, presence without, and all that is altered is found."""

from __future__ import annotations

import random

import pytest

from kbr.errors import BackupMissing, KbrError, ManifestUnreadable, WrongKey
from kbr.format.data_keys import KeySecrets
from kbr.maintain.presence import verify_presence
from kbr.maintain.verify import VerifyReport, verify
from kbr.repository.backup_keys import Trust
from kbr.repository.catalog import Catalog
from kbr.repository.groups import save_snapshot
from kbr.repository.index_writing import IndexWriter
from kbr.repository.sealed_store import SealedStore, seal_over
from kbr.repository.sealing import begin_backup
from kbr.timing import SYSTEM_CLOCK
from tests.support.backups import RecordingStore, store_backup
from tests.unit.format.test_groups import SNAPSHOT

KEY = bytes(range(32))


def opened(inner: RecordingStore) -> SealedStore:
    return seal_over(inner, Trust(secrets=KeySecrets(key=KEY)))


@pytest.fixture
def inner() -> RecordingStore:
    """A whole backup, with groups and an index."""
    made = RecordingStore()
    store = opened(made)
    begin_backup(store, "nightly")
    manifest = store_backup(store)  # type: ignore[arg-type]
    save_snapshot(store, SNAPSHOT)
    IndexWriter(store, "nightly", kbr_version="0", clock=SYSTEM_CLOCK, check_lock=lambda: None).build(
        manifest, on_segment=lambda _count: None
    )
    return made


def verified(inner: RecordingStore, *, deep: bool = False) -> VerifyReport:
    store = opened(inner)
    return verify(store, Catalog(store).load("nightly"), deep=deep)


def present(inner: RecordingStore) -> VerifyReport:
    store = seal_over(inner, Trust())
    return verify_presence(store.inner, store.keys.open_part("nightly"), "")


def test_a_whole_backup_is_good_with_a_key_and_all_there_without(inner: RecordingStore) -> None:
    for deep in (False, True):
        report = verified(inner, deep=deep)
        assert (report.errors, report.notes, report.objects) == ((), (), 4)
    report = present(inner)
    assert (report.errors, report.objects, report.presence_only) == ((), 4, True)
    assert report.bytes == sum(len(inner.data(key)) for key in inner.stored_keys() if "/topics/" in key)


@pytest.mark.parametrize("deep", [False, True])
def test_any_flipped_byte_of_any_object_is_found_and_named(inner: RecordingStore, deep: bool) -> None:
    source = random.Random(1)
    for key in inner.stored_keys():
        if key.endswith("keys.json"):  # the manifest's copy stands in for it
            continue
        size = len(inner.data(key))
        for position in (*range(0, 64, 9), *(source.randrange(64, size) for _ in range(6)), size - 1):
            inner.flip(key, position)
            if key.endswith("manifest.json"):
                with pytest.raises(ManifestUnreadable, match=key):
                    verified(inner)
            else:
                errors = verified(inner, deep=deep).errors
                assert [one.object for one in errors] == [key], (key, position, errors)
            inner.flip(key, position)
    assert not verified(inner).errors


def test_a_cut_missing_or_foreign_segment_is_found_with_a_key_and_without(inner: RecordingStore) -> None:
    keys = [key for key in inner.stored_keys() if "/topics/" in key]
    whole = inner.data(keys[0])
    for length in (0, 10, 64, 79, 80, len(whole) - 1):
        inner.put(keys[0], whole[:length])
        for report in (verified(inner), present(inner)):
            assert [one.object for one in report.errors] == [keys[0]], length
            assert report.exit_code == 4
    inner.delete(keys[0])
    assert [one.what for one in present(inner).errors] == ["it is missing"]
    assert [one.what for one in verified(inner).errors] == ["it is missing"]
    inner.put(keys[0], inner.data(keys[1]))
    assert [one.object for one in verified(inner).errors] == [keys[0]]
    inner.put(keys[0], whole)
    inner.unlisted.add(keys[0])  # a listing that lags behind
    assert not present(inner).errors


def test_who_has_no_key_and_asks_for_more_is_told_who_has_one(inner: RecordingStore) -> None:
    with pytest.raises(WrongKey, match="no key is given") as caught:
        Catalog(seal_over(inner, Trust())).load("nightly")
    assert "encryption.key" in caught.value.hint
    (summary,) = Catalog(seal_over(inner, Trust())).summaries()
    assert (summary.status, summary.encrypted) == ("unreadable", True)


def test_no_backup_is_no_backup_with_a_key_too() -> None:
    with pytest.raises(BackupMissing):
        Catalog(opened(RecordingStore())).load("nightly")


def test_an_open_part_that_claims_much_or_makes_no_sense_is_damage(inner: RecordingStore) -> None:
    manifest = inner.data("nightly/manifest.json")
    for claim in (1, 2**20, 2**26, 2**32 - 1):
        inner.put("nightly/manifest.json", manifest[:24] + claim.to_bytes(4, "little") + manifest[28:])
        with pytest.raises(KbrError, match="nightly/manifest"):
            present(inner)
        with pytest.raises(ManifestUnreadable):
            Catalog(opened(inner)).load("nightly")
    inner.put("nightly/manifest.json", manifest[:70])
    with pytest.raises(KbrError, match="nightly/manifest"):
        present(inner)
