"""The main job with backups on filesystems other than S3 and folders, by the command line as a process."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.support.cli import run_kbr, run_kbr_json, start_kbr
from tests.support.kafka import KafkaHarness, send
from tests.support.other_servers import PASSWORD, AzureServer, FtpServer, GcsServer, SftpServer
from tests.support.waiting import wait_until

Record = Callable[[str, object], None]
BASE_MS = 1_714_564_800_000


@pytest.fixture(scope="module")
def topic(kafka: KafkaHarness) -> str:
    """3,000 records in three partitions."""
    name = kafka.create_topic("other-stores", 3)
    records = (
        {"key": b"k%d" % n, "value": b"v%d" % n * 50, "partition": n % 3, "timestamp": BASE_MS + n} for n in range(3000)
    )
    send(kafka.producer(), name, records)
    return name


def _config(tmp_path: Path, kafka: KafkaHarness, url: str, options: dict[str, str], **storage: object) -> Path:
    cluster = {"bootstrap_servers": kafka.bootstrap}
    whole = {
        "backup_id": "other",
        "source": dict(cluster),
        "target": dict(cluster),
        "storage": {"url": url, "options": options, **storage},
        "backup": {"segment_max_bytes": "64KiB"},
    }
    path = tmp_path / "kbr.yaml"
    path.write_text(yaml.safe_dump(whole))
    return path


@pytest.mark.servers
@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    "kind",
    ["sftp", "azure", pytest.param("ftp", marks=pytest.mark.long), pytest.param("gcs", marks=pytest.mark.long)],
)
def test_backup_verify_and_restore_by_url(
    kafka: KafkaHarness, topic: str, tmp_path: Path, request: pytest.FixtureRequest, record_property: Record, kind: str
) -> None:
    record_property("compatibility", {"table": "other filesystems", "row": kind, "column": "backup, verify, restore"})
    server: SftpServer | FtpServer | AzureServer | GcsServer = request.getfixturevalue(kind)
    config = str(_config(tmp_path, kafka, server.url("backups/of/this"), server.options()))
    probed = run_kbr_json("config", "check", config, "--probe")
    assert {one["outcome"] for one in probed["probe"]} <= {"ok", "note"}, probed["probe"]
    report = run_kbr_json("backup", "-c", config, "-t", topic)
    assert (report["status"], report["totals"]["records"]) == ("complete", 3000)
    assert report["totals"]["segments"] >= 3
    assert run_kbr_json("verify", "other", "-c", config, "--deep")["undamaged"]
    again = run_kbr_json("backup", "-c", config, "-t", topic)  # resumes: nothing is new
    assert (again["status"], again["totals"]["segments"]) == ("complete", report["totals"]["segments"])
    back = f"{topic}-{kind}"
    restored = run_kbr_json("restore", "-c", config, "--topic-map", f"{topic}={back}")
    assert restored["totals"]["records"] == 3000
    for before, after in zip(kafka.read_all(topic), kafka.read_all(back), strict=True):
        assert [one.exact for one in before] == [one.exact for one in after]
    assert [one["backup_id"] for one in run_kbr_json("list", "-c", config)["backups"]] == ["other"]
    shown = run_kbr("config", "show", config).stdout
    for secret in server.options().values():
        if not secret.startswith(("/", "http://")) and secret not in ("kbr", "anon"):
            assert secret not in shown


@pytest.mark.servers
@pytest.mark.timeout(180)
def test_connections_that_are_cut_all_the_time_lose_nothing(
    kafka: KafkaHarness, topic: str, sftp: SftpServer, tmp_path: Path
) -> None:
    """SFTP keeps one connection; kbr makes another when it is lost."""
    config = str(_config(tmp_path, kafka, sftp.url("cut"), sftp.options()))
    process = start_kbr(
        "backup", "-c", config, "-t", topic, "--rate-limit", "150kB/s", "-o", "json", "--set", "backup.workers=2"
    )
    cuts = 0

    def cut_and_look() -> bool:
        nonlocal cuts
        if threading.active_count() and sftp.logins > before:
            sftp.cut()
            cuts += 1
            threading.Event().wait(0.3)
        return process.poll() is not None or cuts >= 5

    before = sftp.logins
    wait_until(cut_and_look, deadline_s=60, what="five cuts, or the end")
    stdout, stderr = process.communicate(timeout=100)
    assert process.returncode == 0, f"{stdout}\n{stderr}"
    assert cuts >= 3
    assert run_kbr_json("verify", "other", "-c", config, "--deep")["undamaged"]
    described = run_kbr_json("describe", "other", "-c", config)
    assert described["totals"]["records"] == 3000


def test_a_wrong_password_is_one_line_without_the_password(
    kafka: KafkaHarness, sftp: SftpServer, ftp: FtpServer, tmp_path: Path
) -> None:
    for server, options in (
        (sftp, {**sftp.options(), "password": "quite-another"}),
        (ftp, {**ftp.options(), "password": "quite-another"}),
    ):
        config = str(_config(tmp_path, kafka, server.url("x"), options))
        done = run_kbr("list", "-c", config)
        assert done.returncode == 1, done.stderr
        assert "does not let us in" in done.stderr
        assert "storage.options" in done.stderr
        assert "quite-another" not in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("home", ["nothing", "a file"])
def test_a_host_whose_key_nobody_knows_gets_no_password(
    kafka: KafkaHarness, sftp: SftpServer, tmp_path: Path, home: str
) -> None:
    """As OpenSSH: the user's own file counts, unless another one is named."""
    options = {name: value for name, value in sftp.options().items() if name != "known_hosts"}
    if home == "a file":
        (tmp_path / "known_hosts").write_text("")
        options["known_hosts"] = str(tmp_path / "known_hosts")
    config = _config(tmp_path, kafka, sftp.url("x"), options)
    before = sftp.logins
    done = run_kbr("list", "-c", str(config), env={"HOME": str(tmp_path)})
    assert done.returncode == 1
    assert "the host key of sftp://127.0.0.1" in done.stderr
    assert "known_hosts" in done.stderr
    assert sftp.logins == before
    (tmp_path / ".ssh").mkdir()
    shutil.copy(sftp.known_hosts, tmp_path / ".ssh" / "known_hosts")
    if home == "nothing":
        assert run_kbr("list", "-c", str(config), env={"HOME": str(tmp_path)}).returncode == 0


def test_secrets_of_options_are_refused_on_the_command_line_and_taken_from_variables(
    kafka: KafkaHarness, sftp: SftpServer, tmp_path: Path
) -> None:
    options = {name: value for name, value in sftp.options().items() if name != "password"}
    config = str(_config(tmp_path, kafka, sftp.url("empty"), options))
    done = run_kbr("list", "-c", config, "--set", f"storage.options.password={PASSWORD}")
    assert done.returncode == 2
    assert "storage.options.password: is a secret" in done.stderr
    assert PASSWORD not in done.stderr
    found = run_kbr_json("list", "-c", config, env={"KBR_STORAGE_OPTIONS__PASSWORD": PASSWORD})
    assert found["backups"] == []


def test_an_unknown_kind_of_store_and_a_missing_package_are_one_line(tmp_path: Path) -> None:
    done = run_kbr("list", "--storage", "nosuch://place/x")
    assert done.returncode == 2
    assert "unknown kind of storage nosuch://" in done.stderr
    done = run_kbr("list", "--storage", "oss://bucket/x")
    assert done.returncode == 2
    assert "pip install ossfs" in done.stderr


def test_a_server_that_is_away_is_exit_5(kafka: KafkaHarness, sftp: SftpServer, tmp_path: Path) -> None:
    port = sftp.port
    config = _config(tmp_path, kafka, f"sftp://127.0.0.1:{port + 1}/x", sftp.options(), deadline_ms=500)
    done = run_kbr("list", "-c", str(config))
    assert done.returncode == 5, done.stderr
    assert f"sftp://127.0.0.1:{port + 1}/x can't be reached" in done.stderr
