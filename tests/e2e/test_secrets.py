"""Promise 8, the whole of it: every secret that kbr can be given is marked, everything is run, and no mark is found.

Searched are standard output and error, all files that were written (unpacked), the answers of the control sockets, and of
each child process its command line and environment; at debug level, with librdkafka's and s3fs's own debug logs on.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kbr.config.keys import all_keys
from tests.support.certificates import openssl
from tests.support.cli import kbr_environment, run_kbr
from tests.support.kafka import KafkaHarness, send
from tests.support.leaks import leaks_in, leaks_in_files
from tests.support.process_tree import KbrRun, children_of
from tests.support.sasl_kafka import SaslKafkaServer
from tests.support.servers import REPOSITORY, S3Server, free_port
from tests.support.waiting import wait_until

#: What every encoding changes something of; not $, which means something in a configuration file.
ODD = "/+=&%<~é"
#: Those of the two servers, which take no other than ASCII.
SASL = "m4rk-sasl/+=&%<~7Qx"
S3_KEY = "M4RKS3KEY7QXACCESS"
S3_SECRET = "m4rk-s3secret/+=&%~7Qx"
#: Of the records: data may stand in the backup, and nowhere else.
RECORD = "m4rk-record-7Qx"
MARKERS = {"SASL password": SASL, "S3 access key": S3_KEY, "S3 secret key": S3_SECRET}
#: Secret properties of librdkafka that a client by SASL PLAIN takes and does not use.
CLIENT = {
    "ssl.key.password": f"m4rk-keypass{ODD}7Qx",
    "ssl.keystore.password": f"m4rk-storepass{ODD}7Qx",
    "sasl.oauthbearer.client.secret": f"m4rk-oauth{ODD}7Qx",
    "sasl.oauthbearer.config": f"principal=m4rk-principal scope=m4rk-scope{ODD}7Qx",
}
MARKERS |= {f"client's {name}": value for name, value in CLIENT.items() if name != "sasl.oauthbearer.config"}
MARKERS |= {"principal": "m4rk-principal", "scope": f"m4rk-scope{ODD}7Qx"}
#: A part of a secret is none to be shown either: what stands in front of the first odd sign.
MARKERS |= {f"beginning of {name}": re.match(r"\w+-[a-z0-9]+", value).group() for name, value in MARKERS.items() if value.startswith("m4rk-")}
DEBUG = ["--set", "logging.level=debug"]


class _MarkedS3(S3Server):
    access_key = S3_KEY
    secret_key = S3_SECRET


class Place:
    """Both servers, a topic, a folder for all that kbr writes, and configurations full of marks."""

    def __init__(self, folder: Path, kafka: SaslKafkaServer, s3: S3Server) -> None:
        self.folder = folder
        self.kafka = kafka
        self.s3 = s3
        self.harness = KafkaHarness(kafka)
        self.work = folder / "work"
        self.state = folder / "state"
        for made in (self.work, self.state, self.state / "run", self.state / "tmp", folder / "secrets"):
            made.mkdir(mode=0o700)
        self._secret("s3-key", S3_KEY + "\n")
        self._secret("oauth", CLIENT["sasl.oauthbearer.config"])
        self._secret("print-password", f"#!/bin/sh\nprintf '%s\\n' '{SASL}'\n").chmod(0o700)
        s3.make_bucket("marked")
        self.config = self.write("kbr.yaml", self.text())

    def _secret(self, name: str, text: str) -> Path:
        path = self.folder / "secrets" / name
        path.write_text(text)
        path.chmod(0o600)
        return path

    def write(self, name: str, text: str) -> Path:
        """A configuration file, outside of what is searched."""
        return self._secret(name, text)

    def text(self, **changes: str) -> str:
        """The configuration: its secrets come from a variable, a file, a program, and stand in it as they are."""
        secrets = self.folder / "secrets"
        parts = {
            "bootstrap": self.kafka.sasl_bootstrap_servers,
            "password": "${BROKER_WORD}",
            "endpoint": self.s3.endpoint_url,
            "secret_key": "${OBJECT_WORD}",
            "more": "",
            **changes,
        }
        client = "".join(f"    {name}: '{value}'\n" for name, value in CLIENT.items() if name != "sasl.oauthbearer.config")
        client += f"    sasl.oauthbearer.config: '${{file:{secrets}/oauth}}'\n    debug: all\n"
        return (
            "backup_id: marked\n"
            "source:\n"
            f"  bootstrap_servers: {parts['bootstrap']}\n"
            "  topics: {include: [marked-topic]}\n"
            "  deadline_ms: 20000\n"
            "  security:\n    security_protocol: SASL_PLAINTEXT\n    sasl_mechanism: PLAIN\n    username: kbr-user\n"
            f"    password: {parts['password']}\n"
            f"  client:\n{client}"
            "target:\n"
            f"  bootstrap_servers: {parts['bootstrap']}\n"
            "  deadline_ms: 20000\n"
            "  security:\n    security_protocol: SASL_PLAINTEXT\n    sasl_mechanism: PLAIN\n    username: kbr-user\n"
            f"    password_command: ['{secrets}/print-password']\n"
            f"  client:\n{client}"
            "storage:\n"
            f"  url: s3://marked/p\n  endpoint: {parts['endpoint']}\n  region: us-east-1\n"
            f"  access_key: ${{file:{secrets}/s3-key}}\n  secret_key: {parts['secret_key']}\n  deadline_ms: 5000\n"
            "backup: {consumer_groups: true, index: true}\n"
            "restore: {topic_suffix: -back, consumer_groups: true}\n"
            f"{parts['more']}"
        )

    @property
    def env(self) -> dict[str, str]:
        """Variables with innocent names hold secrets, and libraries are told to talk."""
        return {
            "BROKER_WORD": SASL,
            "OBJECT_WORD": S3_SECRET,
            "KBR_SOURCE_CLIENT__SSL_KEY_PASSWORD": CLIENT["ssl.key.password"],
            "UNRELATED_TOKEN": S3_SECRET,
            "XDG_RUNTIME_DIR": str(self.state / "run"),
            "TMPDIR": str(self.state / "tmp"),
            "S3FS_LOGGING_LEVEL": "DEBUG",
            "FSSPEC_LOGGING_LEVEL": "DEBUG",
            "PYTHONFAULTHANDLER": "1",
            "PYTHONPATH": str(REPOSITORY),
        }

    def run(self, *arguments: str, env: Mapping[str, str] | None = None, config: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run kbr in the folder where a core file would be left, to its end."""
        return subprocess.run(
            [sys.executable, "-m", "kbr", *arguments, "--config", str(config or self.config)],
            capture_output=True, text=True, errors="surrogateescape", timeout=110, check=False, stdin=subprocess.DEVNULL,
            env=kbr_environment({**self.env, **(env or {})}), cwd=self.work,
        )  # fmt: skip

    def assert_clean(self, what: str, *texts: str) -> None:
        """No secret shows in them, nor in anything that was written so far."""
        found = [line for text in texts for line in leaks_in(what, text, MARKERS)]
        assert found == []

    def assert_files_clean(self) -> None:
        """No secret is in a file that kbr has written, nor a record's content outside of the backup's segments."""
        backups = self.s3.folder / "buckets"
        assert [path for path in backups.rglob("*") if path.is_file()], "nothing was backed up"
        found = leaks_in_files([self.work, self.state, backups], MARKERS)
        segments = [path for path in backups.rglob("segment-*")]
        assert any(leaks_in_files([path.parent], {"record": RECORD}) for path in segments), "the search unpacks no segment"
        everywhere = leaks_in_files([self.work, self.state, backups], {"record": RECORD})
        found += [line for line in everywhere if "segment-" not in line.partition(": record")[0]]
        assert found == []


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("secrets")
    kafka = SaslKafkaServer(folder / "kafka", user="kbr-user", password=SASL)
    s3 = _MarkedS3(folder / "s3", port=free_port())
    try:
        kafka.start()
        s3.start()
        made = Place(folder, kafka, s3)
        topic = made.harness.create_topic("marked-topic", 2)
        records = ({"key": b"k", "value": f"{RECORD} {n}".encode(), "partition": n % 2} for n in range(2000))
        send(made.harness.producer(), topic, records)
        made.harness.consume_some(topic, "marked-group", 100)
        yield made
    finally:
        kafka.stop()
        s3.stop()


pytestmark = [pytest.mark.servers, pytest.mark.timeout(240)]


@pytest.mark.fault("H4", "marked secrets, in all verbs' output and files, at debug level", promise=8)
def test_no_secret_shows_in_a_backups_whole_life(place: Place) -> None:
    verbs = [
        (0, "config", "show", "--origin"),
        (0, "config", "check"),
        (0, "backup"),
        (0, "list"),
        (0, "describe", "marked"),
        (0, "verify", "marked", "--deep"),
        (0, "index", "show", "marked"),
        (0, "restore", "--dry-run"),
        (0, "restore"),
        (0, "groups", "list", "marked"),
        (0, "groups", "plan", "marked"),
        (0, "offsets", "show", "marked"),
    ]
    outputs = ("json", "table", "yaml")
    for number, (code, *words) in enumerate(verbs):
        done = place.run(*words, *DEBUG, "-o", outputs[number % 3], "--log-format", ("plain", "json")[number % 2])
        assert done.returncode == code, f"{words}: exit {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
        place.assert_clean(" ".join(words), done.stdout, done.stderr)
        assert RECORD not in done.stdout + done.stderr
    records = place.run("cat", "marked", "-t", "marked-topic", *DEBUG)
    assert records.stdout.count(RECORD) == 2000
    place.assert_clean("cat", records.stdout, records.stderr)
    place.assert_files_clean()


@pytest.mark.fault("H4", "marked secrets, in process lists, environments, sockets and after a crash", promise=8)
def test_no_secret_is_in_processes_sockets_and_crash_reports(place: Place) -> None:
    """A continuous backup is looked at while it runs, a worker of it crashes, and it is stopped."""
    arguments = ["backup", "-c", str(place.config), "--continuous", "--backup-id", "goes-on", *DEBUG]
    with _Run(*arguments, env=place.env, cwd=place.work) as run:
        sockets = place.state / "run" / "kbr"
        control = wait_until(lambda: list(sockets.glob("*.sock")) or run.is_over, deadline_s=60, what="the control socket")
        assert control is not True, run.output
        worker = wait_until(lambda: run.pids_of("worker"), deadline_s=60, what="a worker")[0]
        # what only watches inherits next to nothing, not even the mark that pids() knows its processes by
        pids = {*run.pids(), *children_of(run.process.pid)}
        assert len(pids) >= 4, "supervisor, resource tracker, forkserver, worker"
        for pid in pids:
            found = leaks_in(f"command line of {pid}", Path(f"/proc/{pid}/cmdline").read_bytes(), MARKERS)
            if pid != run.process.pid:  # whose environment is the user's own
                found += leaks_in(f"environment of {pid}", Path(f"/proc/{pid}/environ").read_bytes(), MARKERS)
            assert found == []
            limits = Path(f"/proc/{pid}/limits").read_text()
            assert re.search(r"Max core file size +[01] +[01] +bytes", limits), f"{pid} may leave a core file"
            assert int(Path(f"/proc/{pid}/coredump_filter").read_text(), 16) == 0, f"memory of {pid} may be in a crash report"
        for request in ("{}", '{"rate_limit": "x"}', "nonsense", '{"rate_limit": {"bytes_per_s": 5e9}}'):
            answer = _ask(control[0], request)
            assert leaks_in("the socket", answer, {**MARKERS, "record": RECORD}) == []
        os.kill(worker, signal.SIGSEGV)
        wait_until(lambda: set(run.pids_of("worker")) - {worker} or run.is_over, deadline_s=60, what="another worker")
        status = run_kbr("status", "-o", "json", env=place.env)
        assert status.returncode == 0
        assert json.loads(status.stdout)["runs"][0]["backup_id"] == "goes-on"
        place.assert_clean("status", status.stdout, status.stderr)
        run.terminate()
        code = run.wait(60)
        assert code in (0, 130), run.output
        assert "Segmentation fault" in run.everything, "the crash report is what is searched"
        place.assert_clean("the run", run.everything)
    assert not list(place.work.glob("*core*"))
    place.assert_files_clean()


class _Run(KbrRun):
    """With a folder of its own, and all of its output."""

    def __init__(self, *arguments: str, env: Mapping[str, str], cwd: Path) -> None:
        before = os.getcwd()
        os.chdir(cwd)
        try:
            super().__init__(*arguments, env=env)
        finally:
            os.chdir(before)

    @property
    def everything(self) -> str:
        size = os.fstat(self._output.fileno()).st_size
        return os.pread(self._output.fileno(), size, 0).decode("utf-8", "surrogateescape")


def _ask(path: Path, request: str) -> bytes:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(path))
        connection.sendall(request.encode() + b"\n")
        data = b""
        while some := connection.recv(65536):
            data += some
    assert data
    return data


def _everything(place: Place) -> str:
    """A configuration with each secret key of the model in it, whatever belongs together or excludes each other."""
    tree: dict[str, object] = {"backup_id": "x"}

    def put(path: tuple[str, ...], value: object) -> None:
        inner = tree
        for step in path[:-1]:
            inner = inner.setdefault(step, {})
        inner[path[-1]] = value

    for key in all_keys():
        if key.secret:
            put(key.path, _mark(key.name))
        elif key.kind == "properties":
            for name in CLIENT:
                put((*key.path, name), _mark(f"{key.name}.{name}"))
        elif key.kind == "mapping of options":
            put((*key.path, "password"), _mark(f"{key.name}.password"))
    for side in ("source", "target"):
        put((side, "bootstrap_servers"), "127.0.0.1:1")
    put(("storage", "url"), str(place.work / "unused"))
    return json.dumps(tree, ensure_ascii=False)


def _mark(name: str) -> str:
    return f"m4rk-{name}{ODD}7Qx"


def test_no_key_of_the_model_that_is_secret_is_ever_shown(place: Place) -> None:
    """Each key that is secret, whether it fits or not: mistakes are told without values."""
    config = place.write("everything.yaml", _everything(place))
    markers = {key.name: _mark(key.name) for key in all_keys() if key.secret}
    markers |= {f"{side}.{name}": _mark(f"{side}.client.{name}") for side in ("source", "target") for name in CLIENT}
    markers |= {key.name: _mark(f"{key.name}.password") for key in all_keys() if key.kind == "mapping of options"}
    assert len(markers) > 10
    for words in (["config", "show"], ["config", "check"], ["config", "show", "--mode-typo"], ["backup", "--debug"], ["list"]):
        done = place.run(*words, *DEBUG, config=config)
        assert leaks_in(" ".join(words), done.stdout + done.stderr, markers) == []
    assert "Error" in done.stderr


@pytest.mark.fault("H4", "marked secrets, in what failing runs say", promise=8)
def test_failing_runs_show_no_secret(place: Place) -> None:
    wrong = "m4rk-wrong/+=&%<~7Qx"
    away = f"127.0.0.1:{free_port()}"
    ssl = (
        "backup_id: x\nstorage: {url: ./unused}\nsource:\n  bootstrap_servers: " + place.kafka.sasl_bootstrap_servers + "\n"
        "  deadline_ms: 4000\n  security: {security_protocol: SSL}\n  client:\n    debug: all\n"
    )
    pem = openssl("genrsa", "-aes256", "-passout", "pass:m4rk-right", "2048").decode()
    #: What is said, the configuration, the command, other variables.
    runs: list[tuple[str, str, list[str], dict[str, str]]] = [
        ("authentication failed", place.text(), ["backup"], {"BROKER_WORD": wrong}),
        ("the signature is wrong", place.text(), ["backup"], {"OBJECT_WORD": wrong}),
        ("the signature is wrong", place.text(), ["verify", "marked"], {"OBJECT_WORD": wrong}),
        ("Connection refused", place.text(endpoint=f"http://{away}"), ["backup"], {}),
        ("refused", place.text(bootstrap=away).replace("deadline_ms: 20000", "deadline_ms: 3000"), ["backup"], {}),
        ("must be a size", place.text(more="limits: {max_block_bytes: '${BROKER_WORD}'}\n"), ["backup"], {}),
        ("is no broker address", place.text(bootstrap="${BROKER_WORD}"), ["backup"], {}),
        ("unknown key", place.text(more=f"index: ${{file:{place.folder}/secrets/oauth}}\n"), ["list"], {}),
        ("unknown key", place.text().replace("    password: ${BROKER_WORD}", f"    'password:{SASL}':"), ["backup"], {}),
        ("is no URL", place.text(endpoint=f"http://me:{S3_SECRET.replace('%', '')}@h"), ["list"], {}),
        ("not valid YAML", place.text() + f"\n {SASL}: [", ["list"], {}),
        ("librdkafka refused the client settings", f"{ssl}    ssl.key.pem: '{SASL}'\n    ssl.certificate.pem: '{SASL}'\n", ["backup"], {}),
        ("librdkafka refused the client settings", f"{ssl}    ssl.key.password: '{SASL}'\n    ssl.key.pem: |\n{_indented(pem)}", ["backup"], {}),
        ("not shown: it holds secrets", ssl.replace("{security_protocol: SSL}", "{security_protocol: SASL_PLAINTEXT, sasl_mechanism: OAUTHBEARER}")
         + f"    enable.sasl.oauthbearer.unsecure.jwt: true\n    sasl.oauthbearer.config: 'principal=x odd {SASL}'\n", ["backup"], {}),
    ]  # fmt: skip
    markers = {**MARKERS, "wrong": wrong, "the wrong one's beginning": "m4rk-wrong", "key's password": "m4rk-right"}

    def run(number: int) -> subprocess.CompletedProcess[str]:
        _what, text, words, env = runs[number]
        config = place.write(f"failing-{number}.yaml", text)
        return place.run(*words, *DEBUG, "--debug", "-o", ("json", "table")[number % 2], env=env, config=config)

    with ThreadPoolExecutor(4) as pool:  # they wait for their deadlines most of the time
        ended = list(pool.map(run, range(len(runs))))
    for (what, *_), done in zip(runs, ended):
        assert done.returncode != 0, f"{what}\n{done.stdout}"
        assert what in done.stderr, f"{what}\n{done.stderr}"
        assert leaks_in(what, done.stdout + done.stderr, markers) == [], what
    found = leaks_in_files([place.work, place.state], markers)
    assert found == []


def _indented(text: str) -> str:
    return "".join(f"      {line}\n" for line in text.splitlines())


#: Loaded by every Python that has its folder on the path: bugs that put secrets into words.
BUGS = """
import sys, threading
if WHERE == "worker":
    import kbr.backup.task as module
    def leaking(task, context):
        import logging
        logging.getLogger("kbr.bug").error("in the log: %s %s", task.client.password, task.storage.secret_key)
        print("on standard error:", repr(task.client.password), task.storage.access_key, file=sys.stderr)
        def die():
            raise LookupError(f"in a thread: {task.client.client} {task.storage.secret_key}")
        thread = threading.Thread(target=die)
        thread.start()
        thread.join()
        raise RuntimeError(f"in a worker: {task.client.password} {task.client.client!r} {task.storage.secret_key!r}")
    real = module._store
    def store(options):
        import inspect
        frame = inspect.currentframe().f_back
        leaking(frame.f_locals["task"], None)
    module._store = store
else:
    import kbr.kafka.admin as module
    class Leaking(module.AdminSession):
        def open(self):
            raise RuntimeError(f"in the supervisor: {self._settings.password} {self._settings.client}")
    module.AdminSession.open = Leaking.open
"""


@pytest.mark.parametrize("where", ["worker", "supervisor"])
def test_what_a_bug_says_is_masked(place: Place, tmp_path: Path, where: str) -> None:
    (tmp_path / "sitecustomize.py").write_text(BUGS.replace("WHERE", repr(where)))
    env = {"PYTHONPATH": f"{tmp_path}:{REPOSITORY}"}
    done = place.run("backup", "--backup-id", f"bug-{where}", *DEBUG, "--debug", "-o", "json", env=env)
    assert done.returncode in (1, 3), f"{done.stdout}\n{done.stderr}"
    said = ["in the supervisor: ***"]
    if where == "worker":
        said = ["in the log: *** ***", "on standard error: '***' ***", "in a thread: ", "in a worker: *** "]
    for words in said:
        assert words in done.stdout + done.stderr, f"{words}\n{done.stdout}\n{done.stderr}"
    place.assert_clean(where, done.stdout, done.stderr)
    assert leaks_in_files([place.work, place.state, place.s3.folder / "buckets"], MARKERS) == []


def test_secrets_on_the_command_line_are_refused_for_every_key(place: Place) -> None:
    """By -X and by --set, at every verb that takes them; the value is not said again. All keys: tests/unit/config."""
    for words in (["backup", "-X", f"sasl.password={SASL}"], ["restore", "-X", f"ssl.key.pem={SASL}"],
                  ["groups", "plan", "x", "-X", f"sasl.jaas.config={SASL}"], ["list", "--set", f"storage.secret_key={SASL}"],
                  ["backup", "-X", f"sasl.password:{SASL.replace('=', '')}"],
                  ["backup", "-b", f"me:{SASL}@127.0.0.1:1"], ["list", "--storage", f"s3://{S3_KEY}:{SASL}@bucket/p"],
                  ["list", "--storage", f"file://me:{SASL}@h/p"], ["verify", "x", "--set", f"storage.endpoint=http://me:{SASL}@h"]):  # fmt: skip
        done = run_kbr(*words, "--debug")
        assert done.returncode == 2, f"{words}\n{done.stdout}\n{done.stderr}"
        assert leaks_in(" ".join(words[:2]), done.stdout + done.stderr, {"it": SASL, "its beginning": "m4rk-sasl"}) == []
