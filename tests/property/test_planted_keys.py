"""`keys.json` that somebody else has put there: nothing is ever sealed with a key that whoever knows the public keys can have made."""

from __future__ import annotations

import hashlib

import pytest

from kbr.app.inspect import verify_backup
from kbr.backup.options import BackupOptions
from kbr.config import load_config
from kbr.errors import (
    BackupMissing,
    Locked,
    ManifestUnreadable,
    PreconditionFailed,
    SealBroken,
    SignatureInvalid,
    WrongKey,
)
from kbr.format import crypto
from kbr.format.data_keys import DataKey, KeySecrets, load_keys, new_keys, open_keys, recipient_id, symmetric_id
from kbr.maintain.presence import with_keys
from kbr.maintain.verify import verify
from kbr.repository.backup_keys import Trust
from kbr.repository.catalog import Catalog
from kbr.repository.publish import publish_manifest
from kbr.repository.sealed_store import SealedStore, seal_over
from kbr.repository.sealing import begin_backup
from kbr.storage import StorageOptions, open_store
from tests.support.backup_bench import Bench, Topics
from tests.support.backups import RecordingStore, store_backup

KEY = bytes(range(32))
IDENTITY, OTHER, SIGNER = (hashlib.sha256(name).digest() for name in (b"identity", b"other", b"signer"))
PUBLIC, OTHERS_PUBLIC = crypto.x25519_public_of(IDENTITY), crypto.x25519_public_of(OTHER)
#: Who opens by their own pair, or only knows public keys.
ASYMMETRIC = {
    "identity": KeySecrets(identity=IDENTITY),
    "recipients": KeySecrets(recipients=(PUBLIC,)),
    "both": KeySecrets(identity=IDENTITY, recipients=(PUBLIC, OTHERS_PUBLIC)),
    "a key beside": KeySecrets(key=KEY, identity=IDENTITY),
}
PATH = "nightly/keys.json"


def sealed(inner: RecordingStore, secrets: KeySecrets, **trust) -> SealedStore:  # type: ignore[no-untyped-def]
    return seal_over(inner, Trust(secrets=secrets, **trust))


def planted(*more: bytes) -> tuple[DataKey, bytes]:
    """What who knows the public key, and no secret of ours, can make."""
    return new_keys("nightly", KeySecrets(recipients=(PUBLIC, *more)))


def unchanged(inner: RecordingStore) -> dict[str, bytes]:
    return {key: inner.data(key) for key in inner.stored_keys()}


@pytest.mark.parametrize("secrets", ASYMMETRIC.values(), ids=ASYMMETRIC)
@pytest.mark.parametrize("conditional", [True, False])
def test_keys_that_lie_there_before_a_backup_begins_are_replaced(
    secrets: KeySecrets, conditional: bool, caplog: pytest.LogCaptureFixture
) -> None:
    inner = RecordingStore()
    if not conditional:
        real = inner.put
        inner.put = lambda key, data, **_how: real(key, data)  # type: ignore[method-assign]
    theirs, document = planted()
    inner.put(PATH, document)
    inner.put("nightly/locks/1700000000000-0123456789abcdef.json", b"{}")
    store = sealed(inner, secrets)
    begin_backup(store, "nightly")
    mine = store.keys.data_key("nightly")
    assert mine is not None
    assert mine != theirs
    written = load_keys(inner.data(PATH), name=PATH, backup_id="nightly")
    assert written.key_id == mine.key_id
    assert store.keys.document("nightly") == inner.data(PATH)
    assert f"{PATH} is there, and nothing else of the backup" in caplog.text
    manifest = store_backup(store)  # type: ignore[arg-type]
    assert Catalog(sealed(inner, KeySecrets(identity=IDENTITY))).load("nightly") == manifest


@pytest.mark.parametrize("document", [b"", b"junk", new_keys("weekly", KeySecrets(key=KEY))[1], new_keys("nightly", KeySecrets(key=bytes(32)))[1]])
def test_keys_that_open_nothing_do_not_keep_a_backup_from_beginning(document: bytes) -> None:
    inner = RecordingStore()
    inner.put(PATH, document)
    store = sealed(inner, KeySecrets(key=KEY))
    begin_backup(store, "nightly")
    store_backup(store)  # type: ignore[arg-type]
    assert Catalog(sealed(inner, KeySecrets(key=KEY))).load("nightly")


def test_a_first_run_that_had_only_public_keys_and_was_killed_can_be_run_again() -> None:
    inner = RecordingStore()
    begin_backup(sealed(inner, ASYMMETRIC["recipients"]), "nightly")
    begin_backup(sealed(inner, ASYMMETRIC["recipients"]), "nightly")


def test_keys_that_only_the_symmetric_key_can_have_made_are_gone_on_with(caplog: pytest.LogCaptureFixture) -> None:
    inner = RecordingStore()
    begin_backup(sealed(inner, KeySecrets(key=KEY, recipients=(OTHERS_PUBLIC,))), "nightly")
    before = inner.data(PATH)
    store = sealed(inner, KeySecrets(key=KEY, identity=IDENTITY))
    inner.calls.clear()
    begin_backup(store, "nightly")
    assert inner.data(PATH) == before
    assert "put" not in {operation for operation, _key in inner.calls}
    assert "opens with keys that the configuration does not name, too: whoever has encryption.identity" in caplog.text


@pytest.mark.parametrize("there", [False, True], ids=["nothing was there", "others were there"])
@pytest.mark.parametrize("secrets", [*ASYMMETRIC.values(), KeySecrets(key=KEY)], ids=[*ASYMMETRIC, "key"])
def test_what_is_read_back_otherwise_than_it_was_written_ends_the_run(there: bool, secrets: KeySecrets) -> None:
    """Somebody is quicker, on a store with conditions and on one that ignores them."""
    _theirs, document = planted()
    for conditional in (False, True):
        inner = RecordingStore()
        if there:
            inner.put(PATH, document)
        real = inner.put

        def put(key: str, data: bytes, **how):  # type: ignore[no-untyped-def]
            if conditional:  # before it
                real(key, document)  # noqa: B023
                if how.get("if_absent"):
                    raise PreconditionFailed(f"{key} is there", object=key)
            real(key, data)  # noqa: B023
            return real(key, document)  # noqa: B023

        inner.put = put  # type: ignore[method-assign]
        with pytest.raises(SealBroken, match="not what this run has just written there") as caught:
            begin_backup(sealed(inner, secrets), "nightly")
        assert caught.value.exit_code == 4


def test_a_run_that_has_lost_its_lock_replaces_no_keys() -> None:
    inner = RecordingStore()
    inner.put(PATH, planted()[1])
    before = unchanged(inner)

    def check_lock() -> None:
        raise Locked("it is another's", hint="wait")

    with pytest.raises(Locked):
        begin_backup(sealed(inner, ASYMMETRIC["identity"]), "nightly", check_lock)
    assert unchanged(inner) == before


def test_without_keys_in_the_configuration_nothing_is_replaced() -> None:
    inner = RecordingStore()
    inner.put(PATH, planted()[1])
    before = unchanged(inner)
    with pytest.raises(WrongKey):
        begin_backup(sealed(inner, KeySecrets()), "nightly")
    assert unchanged(inner) == before


@pytest.mark.parametrize("secrets", ASYMMETRIC.values(), ids=ASYMMETRIC)
def test_who_reads_replaces_nothing(secrets: KeySecrets) -> None:
    inner = RecordingStore()
    inner.put(PATH, planted()[1])
    before = unchanged(inner)
    with pytest.raises((BackupMissing, WrongKey)):
        Catalog(sealed(inner, secrets)).load("nightly")
    assert list(Catalog(sealed(inner, secrets)).summaries()) == []
    assert unchanged(inner) == before


# -- whole runs ---------------------------------------------------------------------------

OPTIONS = BackupOptions(backup_id="nightly", include=("t",))


class _Bench(Bench):
    """Its backups are of a store that a test looks into."""

    def __init__(self, inner: RecordingStore, **trust) -> None:  # type: ignore[no-untyped-def]
        super().__init__(Topics(t=[10]))
        self.store = seal_over(inner, Trust(**trust))


@pytest.mark.parametrize("junk", ["nightly/keys.json.old", "nightly/x", "nightly/restores/x", "nightly/lockst"])
def test_planted_keys_beside_any_other_object_begin_no_backup(junk: str) -> None:
    inner = RecordingStore()
    inner.put(PATH, planted()[1])
    inner.put(junk, b"junk")
    before = unchanged(inner)
    with pytest.raises(ManifestUnreadable, match="other objects of the backup are"):
        _Bench(inner, secrets=ASYMMETRIC["identity"]).run(OPTIONS)
    assert unchanged(inner) == before


def test_a_whole_run_that_has_lost_its_lock_replaces_no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    def check(_self: object) -> None:
        raise Locked("it is another's", hint="wait")

    monkeypatch.setattr("tests.support.backup_bench.Lock.check", check)
    inner = RecordingStore()
    inner.put(PATH, planted()[1])
    before = unchanged(inner)
    with pytest.raises(Locked):
        _Bench(inner, secrets=ASYMMETRIC["identity"]).run(OPTIONS)
    assert unchanged(inner) == before


def test_a_planted_backup_that_vanishes_while_it_is_looked_at_begins_none_with_its_keys() -> None:
    """Its manifest would not be believed, as nobody who is trusted has signed it."""
    inner = RecordingStore()
    theirs = sealed(inner, KeySecrets(recipients=(PUBLIC,)))
    begin_backup(theirs, "nightly")
    store_backup(theirs)  # type: ignore[arg-type]
    trust = {"secrets": ASYMMETRIC["identity"], "public_keys": (crypto.signer_of(SIGNER),)}
    with pytest.raises(SignatureInvalid):
        _Bench(inner, **trust).run(OPTIONS)
    bench = _Bench(inner, **trust)
    document = bench.store.keys.document

    def vanish(backup_id: str) -> bytes:
        found = document(backup_id)
        for key in inner.stored_keys():
            if key != PATH:
                inner.delete(key)
        return bytes(found)

    bench.store.keys.document = vanish
    with pytest.raises(SealBroken, match="a moment ago"):
        bench.run(OPTIONS)
    assert inner.stored_keys() == [PATH]


def test_a_run_seals_what_it_writes_with_its_own_keys_and_goes_on_with_them() -> None:
    inner = RecordingStore()
    theirs, document = planted()
    inner.put(PATH, document)
    bench = _Bench(inner, secrets=ASYMMETRIC["identity"])
    assert bench.run(OPTIONS).exit_code == 0
    mine = bench.store.keys.data_key("nightly")
    assert inner.data("nightly/manifest.json")[8:24] == mine.key_id != theirs.key_id
    before = inner.data(PATH)
    assert _Bench(inner, secrets=ASYMMETRIC["identity"]).run(OPTIONS).exit_code == 0
    assert inner.data(PATH) == before


def test_keys_of_the_configuration_that_do_not_open_what_is_gone_on_with_are_told(caplog: pytest.LogCaptureFixture) -> None:
    inner = RecordingStore()
    a_backup(inner, KeySecrets(identity=IDENTITY))
    begin_backup(sealed(inner, KeySecrets(identity=IDENTITY)), "nightly")
    assert "can't open backup" not in caplog.text
    begin_backup(sealed(inner, KeySecrets(key=KEY, identity=IDENTITY, recipients=(OTHERS_PUBLIC,))), "nightly")
    assert f"encryption.key {symmetric_id(KEY)} can't open backup nightly" in caplog.text
    assert f"recipient {recipient_id(OTHERS_PUBLIC)} can't open backup nightly" in caplog.text


def test_who_else_can_read_a_backup_that_is_gone_on_with_is_told(caplog: pytest.LogCaptureFixture) -> None:
    inner = RecordingStore()
    begin_backup(sealed(inner, ASYMMETRIC["both"]), "nightly")
    store_backup(sealed(inner, ASYMMETRIC["both"]))  # type: ignore[arg-type]
    begin_backup(sealed(inner, ASYMMETRIC["both"]), "nightly")
    assert "does not name" not in caplog.text
    begin_backup(sealed(inner, ASYMMETRIC["identity"]), "nightly")
    assert caplog.text.count("does not name") == 1


# -- keys.json that was swapped -----------------------------------------------------------


def a_backup(inner: RecordingStore, secrets: KeySecrets, **trust) -> bytes:  # type: ignore[no-untyped-def]
    store = sealed(inner, secrets, **trust)
    begin_backup(store, "nightly")
    store_backup(store)  # type: ignore[arg-type]
    return inner.data(PATH)


def altered(document: bytes) -> bytes:
    """The same keys, of which none opens, with a checksum that fits."""
    import json

    from kbr.format.sealed import seal

    text = json.loads(document)
    del text["sha256"]
    text["wrapped"][0]["wrapped"] = "00" * 48
    return seal(text)


@pytest.mark.parametrize("secrets", [ASYMMETRIC["identity"], KeySecrets(key=KEY)], ids=["identity", "key"])
@pytest.mark.parametrize("kind", ["for us", "for others", "altered"])
def test_swapped_keys_heal_from_the_manifest(secrets: KeySecrets, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    inner = RecordingStore()
    good = a_backup(inner, secrets)
    swapped = {
        "for us": new_keys("nightly", secrets)[1],
        "for others": new_keys("nightly", KeySecrets(key=bytes(32)))[1],
        "altered": altered(good),
    }[kind]
    inner.put(PATH, swapped)
    store = sealed(inner, secrets)
    manifest = Catalog(store).load("nightly")
    assert "these are not the keys that the manifest was sealed with" in caplog.text
    assert inner.data(PATH) == swapped
    report = with_keys(verify(store, manifest, deep=True), store.keys.find("nightly").flaw)
    assert [(one.object, one.what.split(";")[0]) for one in report.errors] == [
        (PATH, "it is not what the manifest was sealed with")
    ]
    again = sealed(inner, secrets)
    begin_backup(again, "nightly")
    assert inner.data(PATH) == good
    publish_manifest(again, manifest)
    assert not with_keys(verify(again, manifest), sealed(inner, secrets).keys.find("nightly").flaw).errors


def test_good_keys_are_not_replaced_by_those_of_a_manifest_that_is_not_believed() -> None:
    inner = RecordingStore()
    secrets, keys = ASYMMETRIC["identity"], (crypto.signer_of(SIGNER),)
    good = a_backup(inner, secrets, signing_key=SIGNER)
    manifest = inner.data("nightly/manifest.json")
    other = RecordingStore()
    a_backup(other, KeySecrets(recipients=(PUBLIC,)))
    inner.put("nightly/manifest.json", other.data("nightly/manifest.json"))
    with pytest.raises(SignatureInvalid):
        begin_backup(sealed(inner, secrets, public_keys=keys), "nightly")
    assert inner.data(PATH) == good
    # one that says it is another key's, and can't be opened: the keys are believed
    inner.put("nightly/manifest.json", manifest)
    inner.flip("nightly/manifest.json", 9)
    with pytest.raises(ManifestUnreadable, match="was sealed with data key"):
        Catalog(sealed(inner, secrets)).load("nightly")
    begin_backup(sealed(inner, secrets), "nightly")
    assert inner.data(PATH) == good


def on_disk(inner: RecordingStore, folder: str) -> None:
    store = open_store(StorageOptions(url=folder))
    for key in inner.stored_keys():
        store.put(key, inner.data(key))
    store.close()


def test_verify_tells_swapped_keys_with_a_key_and_without_and_what_of_a_signature_it_has_not_checked(tmp_path) -> None:  # type: ignore[no-untyped-def]
    inner = RecordingStore()
    a_backup(inner, KeySecrets(key=KEY))
    inner.put(PATH, new_keys("nightly", KeySecrets(key=KEY))[1])
    on_disk(inner, str(tmp_path / "store"))
    (tmp_path / "signer.pub").write_bytes(crypto.new_pair("ed25519")[1])
    for given in ({"encryption.key": KEY.hex()}, {}, {"signing.public_keys": str(tmp_path / "signer.pub")}):
        config = load_config(None, overrides={"storage.url": str(tmp_path / "store"), **given}, environ={})
        report = verify_backup(config, "nightly", deep=False)
        assert [one.object for one in report.errors] == [PATH], given
        told = any("signature was not checked" in note for note in report.notes)
        assert (told, report.signature_checked) == ("signing.public_keys" in given, False)


# -- both lost ----------------------------------------------------------------------------


@pytest.mark.parametrize("keys", ["missing", "damaged"])
def test_where_keys_and_manifest_are_lost_the_hints_say_what_helps(keys: str) -> None:
    inner = RecordingStore()
    a_backup(inner, KeySecrets(key=KEY))
    inner.delete("nightly/manifest.json")
    if keys == "missing":
        inner.delete(PATH)
    else:
        inner.flip(PATH, len(inner.data(PATH)) - 9)
    before = unchanged(inner)
    with pytest.raises((WrongKey, SealBroken)) as caught:
        begin_backup(sealed(inner, KeySecrets(key=KEY)), "nightly")
    (segment, *_) = [key for key in inner.stored_keys() if "/topics/" in key]
    with pytest.raises((WrongKey, SealBroken)) as read:
        sealed(inner, KeySecrets()).get(segment, max_bytes=2**30)
    for error in (caught.value, read.value):
        assert "without encryption" not in str(error)
        assert "from another copy of the backup" in str(error.hint)
    assert unchanged(inner) == before
    with pytest.raises((ManifestUnreadable, SealBroken)):
        Catalog(sealed(inner, KeySecrets(key=KEY))).load("nightly")


def test_the_key_that_opens_planted_keys_opens_nothing_that_is_written() -> None:
    """The attack itself, end to end: who made keys.json before the first run reads nothing of the backup."""
    inner = RecordingStore()
    theirs, document = planted(OTHERS_PUBLIC)
    inner.put(PATH, document)
    a_backup(inner, ASYMMETRIC["identity"])
    assert open_keys(
        load_keys(document, name="k", backup_id="nightly"), KeySecrets(identity=OTHER), name="k", where=""
    ) == theirs
    attacker = seal_over(inner, Trust(), known={"nightly": theirs})
    for key in inner.stored_keys():
        if key != PATH:
            with pytest.raises(SealBroken):
                attacker.get(key, max_bytes=2**30)
