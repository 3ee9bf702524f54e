"""Encrypted and signed backups on a real Kafka, by the command line: everything works as on plain ones, for who has a key."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import kbr
from kbr.errors import NotEncrypted, WrongKey
from kbr.format import crypto
from kbr.format.data_keys import KeySecrets, new_keys
from tests.support.cli import run_kbr, run_kbr_json, start_kbr
from tests.support.kafka import KafkaHarness, send
from tests.support.mixed_topics import BASE_MS
from tests.support.sealed_reader import data_key_by_symmetric
from tests.support.waiting import wait_until

PARTITIONS = 2
MARK = b"TOP-SECRET-PAYLOAD"
#: Uncompressed, so that what is marked would be seen where it is not encrypted.
PLAIN_SIZES = ["--set", "backup.compression=none", "--set", "backup.segment_max_bytes=100KiB"]


def new_key() -> str:
    return base64.b64encode(os.urandom(32)).decode()


@dataclass
class Place:
    """Where one test's backup is, and what opens it."""

    kafka: KafkaHarness
    url: str
    stored: Path
    env: Mapping[str, str]
    keys: dict[str, str] = field(default_factory=dict)

    def words(self, verb: str, *more: str) -> list[str]:
        return [verb, *more, "--storage", self.url]

    def json(self, verb: str, *more: str, keys: Mapping[str, str] | None = None, exit_code: int = 0) -> Any:
        env = {**self.env, **(self.keys if keys is None else keys)}
        return run_kbr_json(*self.words(verb, *more), env=env, exit_code=exit_code)

    def run(self, verb: str, *more: str, keys: Mapping[str, str] | None = None):
        return run_kbr(*self.words(verb, *more), env={**self.env, **(self.keys if keys is None else keys)})

    def back_up(self, topic: str, *more: str, **how: Any) -> Any:
        return self.json("backup", "-b", self.kafka.bootstrap, "--backup-id", "b", "-t", topic, *PLAIN_SIZES, *more, **how)

    def restore(self, *more: str, **how: Any) -> Any:
        return self.json("restore", "-b", self.kafka.bootstrap, "--backup-id", "b", *more, **how)

    def bytes_stored(self) -> dict[str, bytes]:
        """Every file of the store, by its path below the backup."""
        folder = next(path for path in self.stored.rglob("b") if path.is_dir())
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def file(self, below: str) -> Path:
        return next(path for path in self.stored.rglob("b") if path.is_dir()) / below


@pytest.fixture(params=["folder", pytest.param("S3", marks=pytest.mark.long)])
def place(request: pytest.FixtureRequest, kafka: KafkaHarness, tmp_path: Path) -> Iterator[Place]:
    if request.param == "folder":
        yield Place(kafka, str(tmp_path / "store"), tmp_path / "store", {})
        return
    s3 = request.getfixturevalue("s3")
    bucket = s3.make_bucket()
    yield Place(kafka, f"s3://{bucket}/p", s3.folder(bucket), s3.env)


@pytest.fixture
def folder(kafka: KafkaHarness, tmp_path: Path) -> Place:
    return Place(kafka, str(tmp_path / "store"), tmp_path / "store", {})


def fill(kafka: KafkaHarness, topic: str, start: int, count: int) -> None:
    records = [
        {
            "partition": number % PARTITIONS,
            "key": b"k%d" % number,
            "value": MARK + b"-%d-" % number + b"x" * (number % 3000),
            "timestamp": BASE_MS + number,
        }
        for number in range(start, start + count)
    ]
    send(kafka.producer(), topic, records)


def filled(kafka: KafkaHarness, prefix: str, count: int = 600) -> str:
    topic = kafka.create_topic(kafka.topic_name(prefix), PARTITIONS)
    fill(kafka, topic, 0, count)
    return topic


def exact(kafka: KafkaHarness, topic: str) -> list[list[tuple[object, ...]]]:
    return [[one.exact for one in part] for part in kafka.read_all(topic)]


def descendants(pid: int) -> list[int]:
    """Processes that a process has started, and those that they have."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            children.setdefault(int(stat.read_text().rpartition(")")[2].split()[1]), []).append(int(stat.parent.name))
    found = list(children.get(pid, []))
    for one in found:
        found.extend(children.get(one, []))
    return found


@pytest.mark.timeout(300)
@pytest.mark.parametrize("place", ["S3", pytest.param("folder", marks=pytest.mark.long)], indirect=True)
def test_an_encrypted_backup_is_gone_on_with_verified_read_and_restored_and_shows_nothing(
    place: Place, record_property: Any, request: pytest.FixtureRequest
) -> None:
    kafka, key, is_folder = place.kafka, new_key(), request.node.callspec.id == "folder"
    place.keys = {"KBR_ENCRYPTION_KEY": key}
    topic, group = filled(kafka, "sealed"), kafka.topic_name("readers-of-sealed")
    kafka.consume_some(topic, group, 100)
    first = place.back_up(topic, "--group", group, "--set", "backup.index=true")
    assert first["status"] == "complete"
    fill(kafka, topic, 600, 300)
    second = place.back_up(topic, "--group", group, "--set", "backup.index=true")
    assert second["totals"]["records"] == 900
    source = exact(kafka, topic)

    stored = place.bytes_stored()
    assert {"manifest.json", "keys.json", "groups.json", "index/head.json"} <= stored.keys()
    sealed = [name for name in stored if name != "keys.json" and not name.startswith("locks/")]
    assert all(stored[name].startswith(b"KBROBJv1") for name in sealed), sealed
    for words in (MARK, b"kbr-manifest", group.encode(), kafka.bootstrap.encode(), key.encode(), base64.b64decode(key)):
        assert [name for name, data in stored.items() if words in data] == []

    without = place.json("verify", "b", keys={})
    assert (without["presence_only"], without["undamaged"], without["records"]) == (True, True, None)
    segments = [name for name in stored if name.startswith("topics/")]
    assert (without["objects"], without["bytes"]) == (len(segments), sum(len(stored[name]) for name in segments))
    assert "opens with any of: encryption.key" in without["notes"][0]
    assert place.run("verify", "b", "--deep", keys={}).returncode == 12
    wrong = place.run("verify", "b", keys={"KBR_ENCRYPTION_KEY": new_key()})
    assert (wrong.returncode, "Traceback" in wrong.stderr) == (12, False)
    assert "is encrypted, and not for encryption.key" in wrong.stderr
    for deep in ([], ["--deep"]):
        verified = place.json("verify", "b", *deep)
        assert (verified["undamaged"], verified["encrypted"], verified["presence_only"]) == (True, True, False)
        assert verified["notes"] == []
    assert verified["records"] == 900

    (listed,) = place.json("list")["backups"]
    assert (listed["encrypted"], listed["records"]) == (True, 900)
    (unread,) = place.json("list", keys={})["backups"]
    assert (unread["encrypted"], unread["status"]) == (True, "unreadable")
    assert "ENCRYPTED" in place.run("list").stdout
    assert place.json("describe", "b")["totals"]["records"] == 900
    assert place.json("groups", "list", "b")["groups"][0]["group"] == group
    assert place.json("index", "show", "b")["state"] == "current"
    refused = (["describe", "b"], ["cat", "b", "-t", topic], ["groups", "list", "b"], ["index", "show", "b"])
    for verb in refused if is_folder else ():
        assert place.run(*verb, keys={}).returncode == 12, verb
    printed = place.run("cat", "b", "-t", topic, "-p", "0", "-c", "3")
    assert [line[: len(MARK)] for line in printed.stdout.splitlines()] == [MARK.decode()] * 3

    restored = place.restore("--topic-map", f"{topic}={topic}-back")
    assert restored["status"] == "complete"
    assert exact(kafka, f"{topic}-back") == source
    assert place.json("offsets", "show", "b")["mapping"]["records"] == 900
    window = ["--from-timestamp", str(BASE_MS + 100), "--to-timestamp", str(BASE_MS + 149)]
    place.restore("--topic-map", f"{topic}={topic}-some", *window)
    assert sum(map(len, exact(kafka, f"{topic}-some"))) == 50
    if is_folder:
        assert place.json("index", "build", "b")["segments"] == len(segments)
        spread = ["--topic-map", f"{topic}={topic}-spread", "--partitioner", "murmur2", "--target-partitions", "5"]
        place.restore(*spread)
        assert sorted(sum(exact(kafka, f"{topic}-spread"), [])) == sorted(sum(source, []))
    record_property("compatibility", {"table": "encryption", "row": "symmetric key", "column": request.node.callspec.id})


@pytest.mark.timeout(240)
def test_each_of_several_recipients_opens_a_backup_and_nobody_else(
    place: Place, tmp_path: Path, record_property: Any, request: pytest.FixtureRequest
) -> None:
    kafka = place.kafka
    names = ("one", "two", "three", "stranger")
    for name in names:
        made = run_kbr_json("config", "key", "--identity", str(tmp_path / name))
        assert made["private_file"] == str(tmp_path / name)
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in (*names, *(f"{one}.pub" for one in names))] == [0o600] * 8
    topic = filled(kafka, "shared")
    public = ",".join(str(tmp_path / f"{name}.pub") for name in ("one", "two"))
    place.keys = {"KBR_ENCRYPTION_IDENTITY": str(tmp_path / "three"), "KBR_ENCRYPTION_RECIPIENTS": public}
    place.back_up(topic)
    for name in ("one", "two", "three"):
        opened = {"KBR_ENCRYPTION_IDENTITY": str(tmp_path / name)}
        assert place.json("verify", "b", "--deep", keys=opened)["records"] == 600, name
    place.restore("--topic-map", f"{topic}={topic}-two", keys={"KBR_ENCRYPTION_IDENTITY": str(tmp_path / "two")})
    assert exact(kafka, f"{topic}-two") == exact(kafka, topic)
    stranger = place.run("verify", "b", keys={"KBR_ENCRYPTION_IDENTITY": str(tmp_path / "stranger")})
    assert stranger.returncode == 12
    record_property("compatibility", {"table": "encryption", "row": "several recipients", "column": request.node.callspec.id})


def test_who_has_only_public_keys_can_begin_a_backup_and_not_read_it(folder: Place, tmp_path: Path) -> None:
    run_kbr_json("config", "key", "--identity", str(tmp_path / "far"))
    topic = filled(folder.kafka, "blind")
    folder.keys = {"KBR_ENCRYPTION_RECIPIENTS": str(tmp_path / "far.pub")}
    folder.back_up(topic)
    again = folder.run("backup", "-b", folder.kafka.bootstrap, "--backup-id", "b", "-t", topic)
    assert again.returncode == 12
    assert "can begin a backup, and not open one" in again.stderr
    opened = folder.json("verify", "b", "--deep", keys={"KBR_ENCRYPTION_IDENTITY": str(tmp_path / "far")})
    assert opened["records"] == 600


@pytest.mark.timeout(240)
def test_a_killed_encrypted_backup_goes_on_and_the_keys_come_back_from_the_manifest(place: Place) -> None:
    kafka = place.kafka
    key = new_key()
    place.keys = {"KBR_ENCRYPTION_KEY": key}
    topic = filled(kafka, "killed")
    words = place.words(
        "backup", "-b", kafka.bootstrap, "--backup-id", "b", "-t", topic, "--continuous", *PLAIN_SIZES,
        "--set", "backup.segment_max_interval_ms=1000", "--set", "backup.checkpoint_interval_ms=1000",
        "--set", "backup.lock_life_ms=3000", "--set", "logging.level=debug",
    )  # fmt: skip
    run = start_kbr(*words, env={**place.env, **place.keys})

    def has_begun() -> bool:
        assert run.poll() is None, run.stderr.read()  # type: ignore[union-attr]
        done = place.run("describe", "b", "-o", "json")
        return done.returncode == 0 and json.loads(done.stdout)["totals"]["records"] >= 600

    wait_until(has_begun, deadline_s=60, what="a manifest with all records")
    fill(kafka, topic, 600, 200)
    raw = base64.b64decode(key)
    data_key = data_key_by_symmetric(place.file("keys.json").read_bytes(), raw)
    secrets = [form for one in (raw, data_key) for form in (one, one.hex().encode(), base64.b64encode(one))]
    # of who was given it in its environment, that is the user's own affair
    seen = {f"cmdline of {run.pid}": Path(f"/proc/{run.pid}/cmdline").read_bytes()}
    for pid in descendants(run.pid):
        seen |= {f"{name} of {pid}": Path(f"/proc/{pid}/{name}").read_bytes() for name in ("cmdline", "environ")}
    assert len(seen) > 3
    os.kill(run.pid, signal.SIGKILL)
    for name, text in zip(("stdout", "stderr"), run.communicate()):
        seen[name] = text.encode()
    assert [name for name, data in seen.items() if any(secret in data for secret in secrets)] == []
    place.file("keys.json").unlink()
    assert place.json("describe", "b")["totals"]["records"] >= 600
    place.back_up(topic, "--set", "backup.lock_life_ms=3000")
    assert place.file("keys.json").is_file()
    assert place.json("verify", "b", "--deep")["records"] == 800
    place.restore("--topic-map", f"{topic}={topic}-back")
    assert exact(kafka, f"{topic}-back") == exact(kafka, topic)


def test_what_was_begun_plain_or_encrypted_is_never_gone_on_with_the_other_way(folder: Place) -> None:
    kafka = folder.kafka
    topic = filled(kafka, "mixed-up")
    key = {"KBR_ENCRYPTION_KEY": new_key()}
    backup = ["backup", "-b", kafka.bootstrap, "--backup-id", "b", "-t", topic]
    folder.back_up(topic, keys={})
    before = folder.bytes_stored()
    refused = folder.run(*backup, keys=key)
    assert refused.returncode == 13
    accepted = folder.run(*backup, "--set", "encryption.accept_plain=true", keys=key)
    assert (accepted.returncode, "was begun without encryption" in accepted.stderr) == (13, True)
    after = folder.bytes_stored()
    assert {name: after[name] for name in before if not name.startswith("locks/")} == {
        name: data for name, data in before.items() if not name.startswith("locks/")
    }
    assert "keys.json" not in after
    # somebody puts a plain backup in an encrypted one's place
    for verb in (["verify", "b"], ["cat", "b", "-t", topic]):
        assert folder.run(*verb, keys=key).returncode == 13, verb
    restore = folder.run("restore", "-b", kafka.bootstrap, "--backup-id", "b", "--topic-map", f"{topic}=never", keys=key)
    assert restore.returncode == 13
    assert "encryption.accept_plain" in restore.stderr
    assert not kafka.topic_exists("never")
    assert [one["encrypted"] for one in folder.json("list", keys=key)["backups"]] == [False]
    assert folder.json("verify", "b", "--set", "encryption.accept_plain=true", keys=key)["undamaged"]
    with pytest.raises(NotEncrypted):
        kbr.open_backup(folder.url, "b", encryption={"key": key["KBR_ENCRYPTION_KEY"]})

    shutil.rmtree(folder.stored)
    folder.back_up(topic, keys=key)
    before = folder.bytes_stored()
    plain = folder.run(*backup, keys={})
    assert plain.returncode == 12
    after = folder.bytes_stored()
    assert {name: after[name] for name in before if not name.startswith("locks/")} == {
        name: data for name, data in before.items() if not name.startswith("locks/")
    }
    with kbr.open_backup(folder.url, "b", encryption={"key": key["KBR_ENCRYPTION_KEY"]}) as opened:
        assert sum(1 for _ in opened.records(topic)) == 600
    with pytest.raises(WrongKey):
        kbr.open_backup(folder.url, "b")


def test_damage_of_an_encrypted_backup_is_found_and_named(folder: Place) -> None:
    kafka = folder.kafka
    folder.keys = {"KBR_ENCRYPTION_KEY": new_key()}
    topic = filled(kafka, "hurt")
    folder.back_up(topic)
    keys, stored_keys = folder.file("keys.json"), folder.file("keys.json").read_bytes()
    keys.write_bytes(stored_keys[:50] + b"?" + stored_keys[51:])
    for given in (None, {}):
        assert [error["object"] for error in folder.json("verify", "b", keys=given, exit_code=4)["errors"]] == ["b/keys.json"]
    folder.back_up(topic)
    assert keys.read_bytes() == stored_keys
    segments = sorted(name for name in folder.bytes_stored() if name.startswith("topics/"))
    one, other = [folder.file(name) for name in (segments[0], segments[-1])]
    whole = one.read_bytes()
    one.write_bytes(whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
    damaged = folder.json("verify", "b", exit_code=4)["errors"]
    assert [(error["object"], error["position"]) for error in damaged] == [(f"b/{segments[0]}", 64)]
    refused = folder.run("restore", "-b", kafka.bootstrap, "--backup-id", "b", "--topic-map", f"{topic}={topic}-never")
    assert refused.returncode in (3, 4)
    assert segments[0] in refused.stderr + refused.stdout
    # swapped for another segment of the same key, as long as this one or not
    one.write_bytes(other.read_bytes())
    assert folder.json("verify", "b", exit_code=4)["errors"][0]["object"] == f"b/{segments[0]}"
    one.unlink()
    (missing,) = folder.json("verify", "b", keys={}, exit_code=4)["errors"]
    assert (missing["object"], missing["what"]) == (f"b/{segments[0]}", "it is missing")
    one.write_bytes(whole[:-1])
    (short,) = folder.json("verify", "b", keys={}, exit_code=4)["errors"]
    assert short["what"] == f"it has {len(whole) - 1} bytes, the manifest says {len(whole)}"


@pytest.mark.timeout(240)
@pytest.mark.parametrize("encrypted", [False, pytest.param(True, marks=pytest.mark.long)], ids=["plain", "encrypted"])
def test_only_a_manifest_that_a_trusted_key_has_signed_is_verified_restored_read_and_gone_on_with(
    folder: Place, tmp_path: Path, encrypted: bool, record_property: Any
) -> None:
    kafka = folder.kafka
    for name in ("mine", "other"):
        run_kbr_json("config", "key", "--signing", str(tmp_path / name))
    key = {"KBR_ENCRYPTION_KEY": new_key()} if encrypted else {}
    mine = {**key, "KBR_SIGNING_PUBLIC_KEYS": str(tmp_path / "mine.pub")}
    signing = {**mine, "KBR_SIGNING_KEY": str(tmp_path / "mine")}
    topic = filled(kafka, "signed")
    folder.back_up(topic, keys=signing)
    fill(kafka, topic, 600, 100)
    folder.back_up(topic, keys=signing)
    assert folder.json("verify", "b", "--deep", keys=mine)["signature_checked"] is True
    assert "signed by a trusted key" in folder.run("verify", "b", keys=mine).stdout
    assert folder.json("verify", "b", keys=key)["signature_checked"] is False
    folder.restore("--topic-map", f"{topic}={topic}-back", keys=mine)
    assert exact(kafka, f"{topic}-back") == exact(kafka, topic)

    def refusals(keys: Mapping[str, str]) -> list[int]:
        verbs = [
            ["verify", "b"],
            ["cat", "b", "-t", topic],
            ["restore", "-b", kafka.bootstrap, "--backup-id", "b", "--topic-map", f"{topic}=never-signed"],
            ["backup", "-b", kafka.bootstrap, "--backup-id", "b", "-t", topic],
        ]
        done = [folder.run(*verb, keys=keys) for verb in verbs]
        assert all("b/manifest.json" in one.stderr for one in done), [one.stderr for one in done]
        return [one.returncode for one in done]

    other = {"KBR_SIGNING_KEY": str(tmp_path / "other"), "KBR_SIGNING_PUBLIC_KEYS": str(tmp_path / "other.pub")}
    assert refusals({**key, **other}) == [4, 4, 4, 4]
    both = {**key, "KBR_SIGNING_PUBLIC_KEYS": f"{tmp_path / 'other.pub'},{tmp_path / 'mine.pub'}"}
    assert folder.json("verify", "b", keys=both)["undamaged"]
    # gone on with by who does not sign: readers without public keys read on, the others don't
    fill(kafka, topic, 700, 10)
    folder.back_up(topic, keys=key)
    assert folder.json("verify", "b", keys=key)["undamaged"]
    assert refusals(signing) == [4, 4, 4, 4]
    column = "with encryption" if encrypted else "without encryption"
    record_property("compatibility", {"table": "encryption", "row": "signed manifests", "column": column})


def test_a_machine_that_signs_goes_on_with_what_it_has_signed_and_with_unsigned_backups_on_purpose_only(
    folder: Place, tmp_path: Path
) -> None:
    for name in ("mine", "next"):
        run_kbr_json("config", "key", "--signing", str(tmp_path / name))
    mine, following = ({"KBR_SIGNING_KEY": str(tmp_path / name)} for name in ("mine", "next"))
    topic = filled(folder.kafka, "signs")
    backup = ["backup", "-b", folder.kafka.bootstrap, "--backup-id", "b", "-t", topic]
    folder.back_up(topic)
    refused = folder.run(*backup, keys=mine)
    assert (refused.returncode, "signing.accept_unsigned=true" in refused.stderr) == (4, True)
    folder.back_up(topic, "--set", "signing.accept_unsigned=true", keys=mine)
    fill(folder.kafka, topic, 600, 10)
    folder.back_up(topic, keys=mine)
    refused = folder.run(*backup, keys=following)
    assert (refused.returncode, "add its public key to signing.public_keys" in refused.stderr) == (4, True)
    folder.back_up(topic, keys={**following, "KBR_SIGNING_PUBLIC_KEYS": str(tmp_path / "mine.pub")})
    folder.back_up(topic, keys=following)
    verified = folder.json("verify", "b", "--deep", keys={"KBR_SIGNING_PUBLIC_KEYS": str(tmp_path / "next.pub")})
    assert (verified["records"], verified["signature_checked"]) == (610, True)


@pytest.mark.timeout(240)
def test_a_killed_signed_backup_goes_on_without_what_nobody_has_signed(place: Place, tmp_path: Path) -> None:
    kafka = place.kafka
    run_kbr_json("config", "key", "--signing", str(tmp_path / "mine"))
    place.keys = {"KBR_SIGNING_KEY": str(tmp_path / "mine")}
    topic = filled(kafka, "killed-signed")
    words = place.words(
        "backup", "-b", kafka.bootstrap, "--backup-id", "b", "-t", topic, "--continuous", *PLAIN_SIZES,
        "--set", "backup.segment_max_interval_ms=1000", "--set", "backup.checkpoint_interval_ms=1000",
        "--set", "backup.lock_life_ms=3000",
    )  # fmt: skip
    run = start_kbr(*words, env={**place.env, **place.keys})

    def has_all() -> bool:
        assert run.poll() is None, run.stderr.read()  # type: ignore[union-attr]
        done = place.run("describe", "b", "-o", "json")
        return done.returncode == 0 and json.loads(done.stdout)["totals"]["records"] == 600

    wait_until(has_all, deadline_s=60, what="a manifest with all records")
    os.kill(run.pid, signal.SIGKILL)
    run.communicate()
    planted = place.file(f"topics/{topic}/partition=0/segment-{300:020d}.mpk")
    planted.write_bytes(b"what nobody has signed")
    mine = {"KBR_SIGNING_PUBLIC_KEYS": str(tmp_path / "mine.pub")}
    left_out = place.restore("--topic-map", f"{topic}={topic}-early", keys=mine)
    assert [one for one in left_out["warnings"] if "only what is signed is used (segments: 1, partitions: 1)" in one]
    fill(kafka, topic, 600, 200)
    more = place.back_up(topic, "--set", "backup.lock_life_ms=3000")
    assert more["totals"]["records"] == 800
    assert any("put 1 segment aside" in one for one in more["warnings"])
    aside = place.file(f"unlisted/1/topics/{topic}/partition=0/{planted.name}")
    assert aside.read_bytes() == b"what nobody has signed"
    verified = place.json("verify", "b", "--deep", keys=mine)
    assert (verified["undamaged"], verified["records"], verified["signature_checked"]) == (True, 800, True)
    assert [note for note in verified["notes"] if "b/unlisted/1/" in note]
    place.restore("--topic-map", f"{topic}={topic}-back", keys=mine)
    assert exact(kafka, f"{topic}-back") == exact(kafka, topic)


def test_a_first_run_uses_no_keys_that_lay_there_before_it(folder: Place, tmp_path: Path) -> None:
    """Somebody who knows the public key makes keys.json, and would read all that is sealed with it."""
    run_kbr_json("config", "key", "--identity", str(tmp_path / "mine"))
    other = crypto.x25519_private((tmp_path / "mine").read_bytes(), None)
    theirs, document = new_keys("b", KeySecrets(key=bytes(32), recipients=(crypto.x25519_public_of(other),)))
    folder.keys = {"KBR_ENCRYPTION_IDENTITY": str(tmp_path / "mine")}
    (folder.stored / "b").mkdir(parents=True)
    folder.file("keys.json").write_bytes(document)
    topic = filled(folder.kafka, "planted")
    done = folder.run("backup", "-b", folder.kafka.bootstrap, "--backup-id", "b", "-t", topic)
    assert (done.returncode, "is replaced by new keys" in done.stderr) == (0, True)
    stored = folder.bytes_stored()
    assert theirs.key_id.hex().encode() not in stored["keys.json"]
    assert not [name for name, data in stored.items() if data[8:24] == theirs.key_id]
    assert folder.json("verify", "b", "--deep")["records"] == 600
