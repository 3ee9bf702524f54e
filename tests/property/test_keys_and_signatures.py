"""`keys.json`, the manifest's open part, and signatures: who opens what, and what is found when somebody alters them."""

from __future__ import annotations

import hashlib
import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbr.errors import BackupExists, KbrError, ManifestUnreadable, NotEncrypted, SealBroken, SignatureInvalid, WrongKey
from kbr.format import crypto
from kbr.format.data_keys import KeySecrets, load_keys, new_keys, open_keys
from kbr.format.documents import dump_manifest, load_manifest
from kbr.format.manifest_chosen import load_chosen_topics
from kbr.format.open_part import Inventory, dump_open_part, load_open_part
from kbr.repository import catalog
from kbr.repository.backup_keys import Trust
from kbr.repository.catalog import Catalog
from kbr.repository.publish import ManifestPublisher, publish_manifest
from kbr.repository.sealed_store import SealedStore, seal_over
from kbr.repository.sealing import BackupSealing, Sealing, begin_backup, for_workers
from kbr.storage import StorageOptions
from tests.support.backups import RecordingStore, store_backup
from tests.support.sealed_reader import (
    check_signed,
    data_key_by_identity,
    data_key_by_symmetric,
    open_object,
    open_part,
)

KEY, STRANGER = bytes(range(32)), bytes(32)
ONE, TWO, NOBODY = (hashlib.sha256(name).digest() for name in (b"one", b"two", b"nobody"))
ALL = KeySecrets(key=KEY, recipients=(crypto.x25519_public_of(ONE), crypto.x25519_public_of(TWO)))
SIGNER, OTHER_SIGNER = hashlib.sha256(b"signer").digest(), hashlib.sha256(b"other").digest()


def opened(document: bytes, secrets: KeySecrets, backup_id: str = "nightly") -> bytes:
    found = load_keys(document, name="k", backup_id=backup_id)
    return open_keys(found, secrets, name="k", where="backup nightly").secret


def sealed(inner: RecordingStore, **trust) -> SealedStore:  # type: ignore[no-untyped-def]
    return seal_over(inner, Trust(**trust))


# -- keys.json ----------------------------------------------------------------------------


def test_each_recipient_opens_the_data_key_and_nobody_else() -> None:
    data_key, document = new_keys("nightly", ALL)
    for secrets in (KeySecrets(key=KEY), KeySecrets(identity=ONE), KeySecrets(identity=TWO, key=STRANGER)):
        assert opened(document, secrets) == data_key.secret
    assert data_key_by_symmetric(document, KEY) == data_key.secret
    assert [data_key_by_identity(document, one) for one in (ONE, TWO)] == [data_key.secret] * 2
    for secrets in (KeySecrets(key=STRANGER), KeySecrets(identity=NOBODY), KeySecrets(), KeySecrets(recipients=ALL.recipients)):
        with pytest.raises(WrongKey) as caught:
            opened(document, secrets)
        assert caught.value.exit_code == 12
        for one in json.loads(document)["wrapped"]:
            assert one["key_id"] in caught.value.hint


def test_every_flipped_bit_of_the_keys_is_found() -> None:
    _data_key, document = new_keys("nightly", KeySecrets(key=KEY, recipients=(crypto.x25519_public_of(ONE),)))
    for position in range(len(document)):
        altered = bytearray(document)
        altered[position] ^= 1
        with pytest.raises(KbrError) as caught:
            opened(bytes(altered), KeySecrets(key=KEY))
        assert "k" in str(caught.value)


@pytest.mark.parametrize("field", ["salt", "wrapped", "key_id"])
def test_keys_that_were_altered_by_who_can_make_a_checksum_are_found(field: str) -> None:
    _data_key, document = new_keys("nightly", KeySecrets(key=KEY))
    text = json.loads(document)
    del text["sha256"]
    if field == "key_id":
        text["key_id"] = "0" * 32
    else:
        text["wrapped"][0][field] = ("0" if text["wrapped"][0][field][0] != "0" else "1") + text["wrapped"][0][field][1:]
    from kbr.format.sealed import seal

    with pytest.raises(SealBroken, match="damaged, or another backup's"):
        opened(seal(text), KeySecrets(key=KEY))


def test_the_keys_of_another_backup_open_nothing() -> None:
    _data_key, document = new_keys("weekly", KeySecrets(key=KEY))
    with pytest.raises(SealBroken, match="wrong place"):
        opened(document, KeySecrets(key=KEY))
    renamed = json.loads(document) | {"backup_id": "nightly"}
    del renamed["sha256"]
    from kbr.format.sealed import seal

    with pytest.raises(SealBroken):
        opened(seal(renamed), KeySecrets(key=KEY))


@given(st.binary(max_size=400))
def test_any_bytes_for_keys_are_one_clear_error(data: bytes) -> None:
    for begin in (b"", b'{"format":"kbr-keys","format_version":1,', b"\x81"):
        with pytest.raises(KbrError):
            load_keys(begin + data, name="k", backup_id="nightly")
        with pytest.raises(SealBroken):
            load_open_part(begin + data, name="m", backup_id="nightly")


def test_no_secret_shows_in_what_is_printed_or_in_errors() -> None:
    trust = Trust(secrets=KeySecrets(key=KEY, identity=ONE), signing_key=SIGNER)
    data_key, document = new_keys("nightly", trust.secrets)
    layer = Sealing(trust=trust)
    worker = BackupSealing(backup_id="nightly", data_key=data_key)
    with pytest.raises(WrongKey) as caught:
        opened(document, KeySecrets(key=STRANGER, identity=NOBODY))
    shown = f"{trust!r}{layer!r}{worker!r}{data_key!r}{StorageOptions(url='/x', layer=layer)!r}{caught.value!r}{caught.value.hint}"
    for secret in (KEY, ONE, SIGNER, data_key.secret, STRANGER, NOBODY):
        assert repr(secret)[2:-1] not in shown
        assert secret.hex() not in shown


# -- beginning and going on ---------------------------------------------------------------


def test_a_backup_gets_one_data_key_and_keeps_it() -> None:
    inner = RecordingStore()
    first, second = (sealed(inner, secrets=KeySecrets(key=KEY)) for _ in range(2))
    # both have looked, and found nothing
    assert first.keys.data_key("nightly") is second.keys.data_key("nightly") is None
    begin_backup(first, "nightly")
    before = inner.data("nightly/keys.json")
    begin_backup(second, "nightly")
    assert inner.data("nightly/keys.json") == before
    assert first.keys.data_key("nightly") == second.keys.data_key("nightly") is not None


def test_of_two_runs_that_make_keys_at_the_same_moment_both_use_those_that_are_there() -> None:
    """Without a lock that works, and on a store that ignores conditions."""
    inner = RecordingStore()
    real = inner.put
    _key, others = new_keys("nightly", KeySecrets(key=KEY))

    def put(key: str, data: bytes, **how):  # type: ignore[no-untyped-def]
        info = real(key, data)
        return real(key, others) if key == "nightly/keys.json" else info

    inner.put = put
    store = sealed(inner, secrets=KeySecrets(key=KEY))
    begin_backup(store, "nightly")
    assert store.keys.data_key("nightly") == open_keys(
        load_keys(others, name="k", backup_id="nightly"), KeySecrets(key=KEY), name="k", where=""
    )


def test_a_backup_that_was_begun_plain_is_not_gone_on_with_encrypted_and_the_other_way() -> None:
    inner = RecordingStore()
    store_backup(inner)
    with pytest.raises(BackupExists):
        begin_backup(sealed(inner, secrets=KeySecrets(key=KEY), accept_plain=True), "nightly")
    assert "nightly/keys.json" not in inner.stored_keys()
    with pytest.raises(NotEncrypted):
        Catalog(sealed(inner, secrets=KeySecrets(key=KEY))).load("nightly")
    assert Catalog(sealed(inner, secrets=KeySecrets(key=KEY), accept_plain=True)).load("nightly").topics
    other = RecordingStore()
    begin_backup(sealed(other, secrets=KeySecrets(key=KEY)), "nightly")
    with pytest.raises(WrongKey):
        begin_backup(sealed(other), "nightly")


@pytest.mark.parametrize("damage", ["missing", "damaged"])
def test_keys_that_are_lost_come_back_from_the_manifest(damage: str) -> None:
    inner = RecordingStore()
    writer = sealed(inner, secrets=ALL)
    begin_backup(writer, "nightly")
    manifest = store_backup(writer)  # type: ignore[arg-type]
    keys = inner.data("nightly/keys.json")
    if damage == "missing":
        inner.delete("nightly/keys.json")
    else:
        inner.flip("nightly/keys.json", 30)
    for secrets in (KeySecrets(key=KEY), KeySecrets(identity=TWO)):
        assert Catalog(sealed(inner, secrets=secrets)).load("nightly") == manifest
    with pytest.raises(WrongKey, match="no key is given"):
        Catalog(sealed(inner)).load("nightly")
    with pytest.raises(WrongKey):
        begin_backup(sealed(inner, secrets=KeySecrets(key=STRANGER)), "nightly")
    assert "nightly/keys.json" not in inner.stored_keys() or inner.data("nightly/keys.json") != keys
    again = sealed(inner, secrets=KeySecrets(key=KEY))
    begin_backup(again, "nightly")
    assert inner.data("nightly/keys.json") == keys
    publish_manifest(again, manifest)
    assert open_part(inner.data("nightly/manifest.json"))["keys"] == keys


def test_a_run_that_ended_before_its_first_manifest_is_no_backup_yet() -> None:
    inner = RecordingStore()
    store = sealed(inner, secrets=KeySecrets(key=KEY))
    begin_backup(store, "nightly")
    assert Catalog(store).has_objects("nightly") is False
    begin_backup(store, "nightly")


def test_workers_get_the_data_key_and_no_other_secret() -> None:
    inner = RecordingStore()
    store = sealed(inner, secrets=ALL)
    begin_backup(store, "nightly")
    options = for_workers(store, StorageOptions(url="memory://w", layer=Sealing(trust=store.trust)), "nightly")
    assert options.layer == BackupSealing(backup_id="nightly", data_key=store.keys.data_key("nightly"))
    hash(options)
    assert for_workers(store, options, "another").layer is None
    store.put("nightly/x", b"hello")
    inner.calls.clear()
    assert options.layer is not None
    assert options.layer.over(inner).get("nightly/x", max_bytes=9) == b"hello"
    assert [operation for operation, _key in inner.calls] == ["get"]


# -- the manifest -------------------------------------------------------------------------


def test_an_encrypted_backup_is_what_the_format_page_says() -> None:
    inner = RecordingStore()
    store = sealed(inner, secrets=ALL, signing_key=SIGNER)
    begin_backup(store, "nightly")
    manifest = store_backup(store)  # type: ignore[arg-type]
    data_key = data_key_by_symmetric(inner.data("nightly/keys.json"), KEY)
    plain = open_object(inner.data("nightly/manifest.json"), data_key, "nightly", "manifest.json")
    assert load_manifest(plain, name="m") == manifest
    check_signed(plain, crypto.signer_of(SIGNER))
    part = open_part(inner.data("nightly/manifest.json"))
    assert part["keys"] == inner.data("nightly/keys.json")
    listed = load_open_part(
        dump_open_part("nightly", part["keys"], Inventory().rows(manifest)), name="m", backup_id="nightly"
    ).segments
    assert listed == {
        key.removeprefix("nightly/"): len(inner.data(key)) for key in inner.stored_keys() if "/topics/" in key
    }
    assert store.keys.open_part("nightly").segments == listed
    for key in inner.stored_keys():
        if key != "nightly/keys.json":
            below = key.removeprefix("nightly/")
            assert open_object(inner.data(key), data_key, "nightly", below) == store.get(key, max_bytes=2**30)


def test_the_open_part_can_not_be_altered_unseen_by_who_has_the_key() -> None:
    inner = RecordingStore()
    store = sealed(inner, secrets=KeySecrets(key=KEY))
    begin_backup(store, "nightly")
    store_backup(store)  # type: ignore[arg-type]
    (open_bytes,) = [int.from_bytes(inner.data("nightly/manifest.json")[24:28], "little")]
    for position in range(64, 64 + open_bytes, 7):
        inner.flip("nightly/manifest.json", position)
        with pytest.raises(ManifestUnreadable):
            Catalog(store).load("nightly")
        inner.flip("nightly/manifest.json", position)


def test_a_manifest_that_was_signed_by_nobody_who_is_trusted_is_refused() -> None:
    inner = RecordingStore()
    manifest = store_backup(inner)
    unsigned = inner.data("nightly/manifest.json")
    publish_manifest(sealed(inner, signing_key=SIGNER), manifest)
    signed = inner.data("nightly/manifest.json")
    mine, other = crypto.signer_of(SIGNER), crypto.signer_of(OTHER_SIGNER)
    trusting = Catalog(sealed(inner, public_keys=(other, mine)))
    assert trusting.load("nightly") == manifest
    assert Catalog(inner).load("nightly") == manifest
    with pytest.raises(SignatureInvalid, match="none of signing.public_keys"):
        Catalog(sealed(inner, public_keys=(other,))).load("nightly")
    # everything but the signature, with a checksum that fits
    body = signed[:-77].replace(b'"cleanup.policy"', b'"cleanup.polics"')
    forged = body + b',"sha256":"' + hashlib.sha256(body).hexdigest().encode() + b'"}'
    inner.put("nightly/manifest.json", forged)
    assert Catalog(inner).load("nightly") != manifest
    with pytest.raises(SignatureInvalid, match=r"nightly/manifest\.json: the manifest's signature is wrong"):
        trusting.load("nightly")
    inner.put("nightly/manifest.json", unsigned)
    with pytest.raises(SignatureInvalid, match="is not signed") as caught:
        trusting.load("nightly")
    assert caught.value.exit_code == 4


def test_a_signature_is_of_one_backup_only() -> None:
    inner = RecordingStore()
    publish_manifest(sealed(inner, signing_key=SIGNER), store_backup(inner))
    inner.put("weekly/manifest.json", inner.data("nightly/manifest.json"))
    with pytest.raises(SignatureInvalid):
        Catalog(sealed(inner, public_keys=(crypto.signer_of(SIGNER),))).load("weekly")


@pytest.mark.parametrize("encrypted", [False, True])
@pytest.mark.parametrize("signed", [False, True])
def test_a_large_manifest_is_read_piece_by_piece_signed_encrypted_or_neither(
    monkeypatch: pytest.MonkeyPatch, encrypted: bool, signed: bool
) -> None:
    monkeypatch.setattr(catalog, "SMALL_MANIFEST_BYTES", 0)
    inner = RecordingStore()
    secrets = KeySecrets(key=KEY) if encrypted else KeySecrets()
    store = sealed(inner, secrets=secrets, signing_key=SIGNER if signed else None)
    begin_backup(store, "nightly")
    manifest = store_backup(store)  # type: ignore[arg-type]
    inner.calls.clear()
    found = Catalog(store).load_chosen("nightly", lambda name: name == "empty")
    assert [len(topic.partitions) for topic in found.topics] == [1, 0]
    assert ("get", "nightly/manifest.json") not in inner.calls
    public = crypto.signer_of(SIGNER)
    for keys, refused in (((public,), not signed), ((crypto.signer_of(OTHER_SIGNER),), True)):
        trusting = Catalog(sealed(inner, secrets=secrets, public_keys=keys))
        if refused:
            with pytest.raises(SignatureInvalid):
                trusting.load_chosen("nightly", lambda _name: True)
        else:
            assert trusting.load_chosen("nightly", lambda _name: True) == manifest


@pytest.mark.parametrize("small", [100, 1 << 20])
def test_a_large_encrypted_manifest_is_read_as_a_whole_too(monkeypatch: pytest.MonkeyPatch, small: int) -> None:
    monkeypatch.setattr(catalog, "SMALL_MANIFEST_BYTES", small)
    store = sealed(RecordingStore(), secrets=KeySecrets(key=KEY))
    begin_backup(store, "nightly")
    manifest = store_backup(store)  # type: ignore[arg-type]
    assert Catalog(store).load("nightly") == manifest


def test_a_manifest_never_carries_another_key_than_its_own() -> None:
    inner = RecordingStore()
    store = sealed(inner, secrets=KeySecrets(key=KEY))
    begin_backup(store, "nightly")
    mine = inner.data("nightly/keys.json")
    other = RecordingStore()
    begin_backup(sealed(other, secrets=KeySecrets(key=KEY)), "nightly")
    inner.put("nightly/keys.json", other.data("nightly/keys.json"))
    manifest = store_backup(store)  # type: ignore[arg-type]
    inner.put("nightly/keys.json", mine)
    assert store.keys.document("nightly") == mine
    assert Catalog(sealed(inner, secrets=KeySecrets(key=KEY))).load("nightly") == manifest


def test_a_manifest_with_a_signature_reads_the_same_for_who_knows_none() -> None:
    inner = RecordingStore()
    manifest = store_backup(inner)
    plain = dump_manifest(manifest)
    publish_manifest(sealed(inner, signing_key=SIGNER), manifest)
    signed = inner.data("nightly/manifest.json")
    assert signed.startswith(plain[:-77])
    assert load_manifest(signed, name="m") == manifest
    found = load_chosen_topics(lambda start, length: signed[start : start + length], len(signed), lambda _name: True)
    assert found == manifest
    for position in range(0, len(signed), 11):
        altered = bytearray(signed)
        altered[position] ^= 1
        with pytest.raises(KbrError):
            load_manifest(bytes(altered), name="m")


def test_an_inventory_follows_a_list_that_grows_or_changes() -> None:
    inner = RecordingStore()
    manifest = store_backup(inner)
    from dataclasses import replace

    inventory = Inventory()
    whole = Inventory().rows(manifest)
    topic = manifest.topics[1]
    shorter = replace(
        manifest,
        topics=(
            manifest.topics[0],
            replace(
                topic,
                partitions=tuple(replace(one, segments=one.segments[:1]) for one in topic.partitions),
            ),
        ),
    )
    assert inventory.rows(shorter) == Inventory().rows(shorter) != whole
    assert inventory.rows(manifest) == whole
    assert inventory.rows(shorter) == Inventory().rows(shorter)


def test_every_checkpoint_is_sealed_signed_and_complete() -> None:
    inner = RecordingStore()
    store = sealed(inner, secrets=KeySecrets(key=KEY), signing_key=SIGNER)
    begin_backup(store, "nightly")
    manifest = store_backup(store)  # type: ignore[arg-type]
    publisher = ManifestPublisher(store)
    salts = set()
    for _ in range(3):
        publisher.publish(manifest)
        data = inner.data("nightly/manifest.json")
        salts.add(data[32:64])
        trusting = sealed(inner, secrets=KeySecrets(key=KEY), public_keys=(crypto.signer_of(SIGNER),))
        assert Catalog(trusting).load("nightly") == manifest
    assert len(salts) == 3


def test_random_keys_are_random() -> None:
    assert len({new_keys("b", KeySecrets(key=os.urandom(32)))[0].secret for _ in range(20)}) == 20
