"""Runs that sign: what they go on with is signed by themselves or by who is trusted, and what they leave is signed by them."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import pytest

from kbr.backup.options import BackupOptions
from kbr.errors import SignatureInvalid
from kbr.format import crypto
from kbr.format.data_keys import KeySecrets
from kbr.model import GapReason, RunStatus
from kbr.repository.backup_keys import Trust
from kbr.repository.catalog import Catalog
from kbr.repository.publish import publish_manifest
from kbr.repository.sealed_store import seal_over
from tests.support.backup_bench import Bench, Topics
from tests.support.backups import RecordingStore

OPTIONS = BackupOptions(backup_id="b", include=("t",))
MINE, EARLIER, STRANGER = (hashlib.sha256(name).digest() for name in (b"mine", b"earlier", b"stranger"))
ENCRYPTED = pytest.mark.parametrize("secrets", [KeySecrets(), KeySecrets(key=bytes(range(32)))], ids=["plain", "encrypted"])


class _Runs:
    """Of one backup in one store, each with keys of its own."""

    def __init__(self, secrets: KeySecrets) -> None:
        self.inner = RecordingStore()
        self.bench = Bench(Topics(t=[10]))
        self.secrets = secrets

    def run(self, key: bytes | None, *, trusted: tuple[bytes, ...] = (), accept_unsigned: bool = False, **how: Any) -> Any:
        """As kbr.app.trust makes it for a backup run."""
        own = () if key is None else (key,)
        self.bench.store = seal_over(
            self.inner,
            Trust(
                secrets=self.secrets,
                signing_key=key,
                public_keys=tuple(map(crypto.signer_of, (*trusted, *own))),
                accept_unsigned=accept_unsigned,
            ),
        )
        return self.bench.run(OPTIONS, **how)

    def more(self) -> None:
        """The topic grows."""
        self.bench.topics.ends["t"] = [self.bench.topics.ends["t"][0] + 10]

    def is_signed_by(self, key: bytes) -> bool:
        trust = Trust(secrets=self.secrets, public_keys=(crypto.signer_of(key),))
        try:
            Catalog(seal_over(self.inner, trust)).load("b")
        except SignatureInvalid:
            return False
        return True

    def contents(self) -> dict[str, bytes]:
        return {key: self.inner.data(key) for key in self.inner.stored_keys()}


@ENCRYPTED
@pytest.mark.parametrize("grows", [True, False])
@pytest.mark.parametrize("dry_run", [True, False])
def test_a_run_that_signs_goes_on_with_nothing_unsigned(secrets: KeySecrets, grows: bool, dry_run: bool) -> None:
    runs = _Runs(secrets)
    runs.run(None)
    if grows:
        runs.more()
    before = runs.contents()
    with pytest.raises(SignatureInvalid, match="is not signed") as caught:
        runs.run(MINE, dry_run=dry_run)
    assert "signing.accept_unsigned" in str(caught.value.hint)
    assert runs.contents() == before


@ENCRYPTED
@pytest.mark.parametrize("grows", [True, False])
def test_a_backup_that_was_begun_unsigned_is_signed_from_then_on_where_that_is_asked_for(secrets: KeySecrets, grows: bool) -> None:
    runs = _Runs(secrets)
    runs.run(None)
    if grows:
        runs.more()
    assert runs.run(MINE, accept_unsigned=True).exit_code == 0
    assert runs.is_signed_by(MINE)
    assert runs.run(MINE).exit_code == 0


@ENCRYPTED
@pytest.mark.parametrize("accept_unsigned", [True, False])
def test_what_a_stranger_has_signed_or_somebody_has_altered_is_never_gone_on_with(
    secrets: KeySecrets, accept_unsigned: bool
) -> None:
    runs = _Runs(secrets)
    runs.run(STRANGER)
    before = runs.contents()
    with pytest.raises(SignatureInvalid, match=r"none of signing\.public_keys \(and not signing\.key's own\)") as caught:
        runs.run(MINE, accept_unsigned=accept_unsigned)
    assert "add its public key to signing.public_keys" in str(caught.value.hint)
    assert runs.contents() == before
    if secrets.are_given:
        return
    stolen = runs.inner.data("b/manifest.json").replace(
        crypto.signer_of(STRANGER).hex().encode(), crypto.signer_of(MINE).hex().encode()
    )
    body = stolen[:-77]
    runs.inner.put("b/manifest.json", body + b',"sha256":"' + hashlib.sha256(body).hexdigest().encode() + b'"}')
    with pytest.raises(SignatureInvalid, match="signature is wrong"):
        runs.run(MINE, accept_unsigned=accept_unsigned)


@ENCRYPTED
@pytest.mark.parametrize("grows", [True, False])
def test_a_new_signing_key_takes_a_backup_over_where_the_earlier_one_is_trusted(secrets: KeySecrets, grows: bool) -> None:
    runs = _Runs(secrets)
    runs.run(EARLIER)
    if grows:
        runs.more()
    with pytest.raises(SignatureInvalid):
        runs.run(MINE)
    assert runs.run(MINE, trusted=(EARLIER,)).exit_code == 0
    assert runs.is_signed_by(MINE)
    assert runs.run(MINE).exit_code == 0


@ENCRYPTED
def test_a_run_with_nothing_new_leaves_a_manifest_that_it_has_signed_itself_alone(secrets: KeySecrets) -> None:
    runs = _Runs(secrets)
    runs.run(MINE)
    before = runs.contents()
    assert runs.run(MINE, trusted=(EARLIER,)).exit_code == 0
    assert runs.contents() == before


def _killed(runs: _Runs) -> str:
    """As a run leaves it that was killed: called running, with a segment that the manifest does not list."""
    runs.run(MINE)
    publish_manifest(runs.bench.store, replace(runs.bench.stored(), status=RunStatus.RUNNING, finished_at_ms=None))
    key = "topics/t/partition=0/segment-00000000000000000010.zst"
    runs.inner.put(f"b/{key}", b"what nobody has signed")
    return key


def test_what_the_cluster_has_deleted_of_what_is_put_aside_is_a_gap_and_what_it_has_is_read_again() -> None:
    runs = _Runs(KeySecrets())
    key = _killed(runs)
    runs.bench.topics.ends["t"], runs.bench.topics.start = [30], 20
    before = runs.contents()
    report = runs.run(MINE, dry_run=True)
    assert any("segments that no manifest lists (1) would be put aside" in one for one in report.warnings)
    assert runs.contents() == before
    report = runs.run(MINE)
    (entry,) = report.manifest.topics[0].partitions
    assert [(gap.start_offset, gap.end_offset_exclusive, gap.reason) for gap in entry.gaps] == [(10, 20, GapReason.RETENTION)]
    assert [one.sequence for one in entry.segments] == [0, 20]
    assert report.exit_code == 3
    (told,) = [one for one in report.warnings if "aside" in one]
    assert "what it has deleted meanwhile is a gap" in told
    assert runs.inner.data(f"b/unlisted/1/{key}") == b"what nobody has signed"
    assert f"b/{key}" not in runs.inner.stored_keys()


def test_workers_of_a_signed_plain_run_take_nothing_over_and_those_of_any_other_do() -> None:
    for secrets, key, takes_over in ((KeySecrets(), MINE, False), (KeySecrets(), None, True), (KeySecrets(key=bytes(32)), MINE, True)):
        runs = _Runs(secrets)
        runs.run(key)
        assert runs.bench.workers.took_over == [takes_over]


def test_of_a_signed_backup_whose_older_manifest_was_put_back_what_the_log_has_lost_is_put_aside_and_told() -> None:
    runs = _Runs(KeySecrets())
    runs.run(MINE)
    key = "topics/t/partition=0/segment-00000000000000000010.zst"
    runs.inner.put(f"b/{key}", b"listed by a newer manifest that is gone")
    runs.bench.topics.ends["t"], runs.bench.topics.start = [30], 20
    report = runs.run(MINE)
    assert [(gap.start_offset, gap.end_offset_exclusive) for gap in report.manifest.topics[0].partitions[0].gaps] == [(10, 20)]
    assert any("aside" in one for one in report.warnings)
    assert f"b/unlisted/1/{key}" in runs.inner.stored_keys()
