"""Where credentials for S3 are found, and what happens when they end: as boto does, and once anew."""

from __future__ import annotations

import json
import os
import random
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs

import pytest

from kbr.errors import AccessDenied, ConfigError
from kbr.storage import StorageOptions
from kbr.storage.fsspec_store import S3fsClient
from kbr.storage.s3 import S3Store
from kbr.timing import Backoff
from tests.support.scripted_s3 import ScriptedS3
from tests.support.waiting import wait_until

SUPPORT = Path(__file__).parents[1] / "support"
ROLE = "arn:aws:iam::111122223333:role/kbr"
Record = Callable[[str, object], None]


class CredentialServer:
    """An instance's metadata service (IMDSv2), a container's, and STS, on loopback."""

    def __init__(self) -> None:
        self.given = 0  # how many credentials were
        self.life_s = 3600.0
        self.is_down = False
        self.asked: list[str] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)

    def credentials(self) -> dict[str, str]:
        """New ones, numbered."""
        self.given += 1
        ends_at = datetime.now(timezone.utc) + timedelta(seconds=self.life_s)
        return {
            "Code": "Success",
            "AccessKeyId": f"AKROLE{self.given}",
            "SecretAccessKey": "secret",
            "Token": f"token-{self.given}",
            "Expiration": ends_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }


def _handler(server: CredentialServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_arguments: object) -> None:
            pass

        def do_PUT(self) -> None:
            self.answer("imds-token")

        def do_GET(self) -> None:
            server.asked.append(self.path)
            if server.is_down:
                self.answer("out of order", 500)
            elif self.path.endswith("/security-credentials/"):
                self.answer("backup-role")
            elif self.path.endswith("/backup-role") and self.headers.get("x-aws-ec2-metadata-token") == "imds-token":
                self.answer(json.dumps(server.credentials()))
            elif self.path == "/container" and self.headers.get("Authorization") == "container-token":
                self.answer(json.dumps(server.credentials()))
            else:
                self.answer("not here", 404)

        def do_POST(self) -> None:
            form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
            server.asked.append(form["Action"][0])
            if form.get("WebIdentityToken") != ["a-web-token"] or form["RoleArn"] != [ROLE]:
                self.answer("<ErrorResponse><Error><Code>InvalidIdentityToken</Code></Error></ErrorResponse>", 400)
                return
            made = server.credentials()
            self.answer(
                "<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials>"
                f"<AccessKeyId>{made['AccessKeyId']}</AccessKeyId><SecretAccessKey>secret</SecretAccessKey>"
                f"<SessionToken>{made['Token']}</SessionToken><Expiration>{made['Expiration']}</Expiration></Credentials>"
                "</AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"
            )

        def answer(self, text: str, status: int = 200) -> None:
            body = text.encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return Handler


@pytest.fixture
def server() -> Iterator[ScriptedS3]:
    with ScriptedS3() as made:
        yield made


@pytest.fixture
def giver(monkeypatch: pytest.MonkeyPatch) -> Iterator[CredentialServer]:
    made = CredentialServer()
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", made.url)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def nothing_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No credentials of whoever runs the tests."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))


Opened = Callable[..., S3Store]


@pytest.fixture
def opened(server: ScriptedS3) -> Iterator[Opened]:
    """Makes stores without credentials of their own."""
    made: list[S3Store] = []

    def make(**more: object) -> S3Store:
        facts: dict[str, object] = {
            "url": "s3://bucket/p", "endpoint_url": server.endpoint_url, "region": "us-east-1", "path_style": True,
            "deadline_s": 20.0, "check_deadline_s": 5.0,
        }  # fmt: skip
        options = StorageOptions(**{**facts, **more})  # type: ignore[arg-type]
        backoff = Backoff(base_s=0.01, cap_s=0.05)
        made.append(S3Store(options, client=S3fsClient(options), backoff=backoff, rng=random.Random(1)))
        return made[-1]

    yield make
    for store in made:
        store.close()


def _users(server: ScriptedS3) -> list[str]:
    """Who signed each request; '-' for nobody."""
    found = [headers.get("authorization", "") for headers in server.headers]
    return [one.partition("Credential=")[2].partition("/")[0] or "-" for one in found]


def _row(record: Record, row: str) -> None:
    record("compatibility", {"table": "storage options", "row": f"credentials: {row}", "column": "wire"})


def test_credentials_of_the_environment_are_found(
    server: ScriptedS3, opened: Opened, monkeypatch: pytest.MonkeyPatch, record_property: Record
) -> None:
    _row(record_property, "environment")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKENV")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "token")
    opened().put("m", b"x")
    assert set(_users(server)) == {"AKENV"}
    assert {headers["x-amz-security-token"] for headers in server.headers} == {"token"}


def test_a_profile_of_the_shared_files_is_found_by_its_name(
    server: ScriptedS3, opened: Opened, tmp_path: Path, record_property: Record
) -> None:
    _row(record_property, "shared file, profile")
    (tmp_path / "credentials").write_text(
        "[default]\naws_access_key_id = AKDEFAULT\naws_secret_access_key = secret\n"
        "[backup]\naws_access_key_id = AKBACKUP\naws_secret_access_key = secret\n"
    )
    opened(profile="backup").put("m", b"x")
    assert set(_users(server)) == {"AKBACKUP"}
    server.reset()
    opened().put("m", b"x")
    assert set(_users(server)) == {"AKDEFAULT"}


def test_a_profile_that_is_not_there_is_told(server: ScriptedS3, opened: Opened) -> None:
    with pytest.raises(AccessDenied, match="nowhere") as caught:
        opened(profile="nowhere").check()
    assert "storage.profile" in caught.value.hint
    assert server.requests == []


@pytest.mark.parametrize("name", ["config", "credentials"])
def test_a_shared_file_that_can_not_be_read_is_told_at_once(server: ScriptedS3, opened: Opened, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("aws_access_key_id AKHUSH\n")
    with pytest.raises(ConfigError, match="config file") as caught:
        opened().check()
    assert str(tmp_path / name) in str(caught.value)
    assert "AKHUSH" not in str(caught.value)
    assert server.requests == []


def test_a_program_that_gives_credentials_is_run(
    server: ScriptedS3, opened: Opened, tmp_path: Path, record_property: Record
) -> None:
    _row(record_property, "credential_process")
    answer = tmp_path / "answer.json"
    answer.write_text(json.dumps({"Version": 1, "AccessKeyId": "AKPROCESS", "SecretAccessKey": "secret"}))
    (tmp_path / "config").write_text(
        f"[profile program]\ncredential_process = {sys.executable} -c \"print(open('{answer}').read())\"\n"
    )
    opened(profile="program").put("m", b"x")
    assert set(_users(server)) == {"AKPROCESS"}


def test_an_instance_s_role_is_found(
    server: ScriptedS3,
    giver: CredentialServer,
    opened: Opened,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Record,
) -> None:
    _row(record_property, "instance role")
    monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
    store = opened()
    for _ in range(3):
        store.put("m", b"x")
    assert set(_users(server)) == {"AKROLE1"}
    assert giver.given == 1


def test_a_container_s_role_is_found(
    server: ScriptedS3,
    giver: CredentialServer,
    opened: Opened,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Record,
) -> None:
    _row(record_property, "container role")
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{giver.url}/container")
    monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", "container-token")
    opened().put("m", b"x")
    assert set(_users(server)) == {"AKROLE1"}


def test_a_web_identity_gets_a_role(
    server: ScriptedS3,
    giver: CredentialServer,
    opened: Opened,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    record_property: Record,
) -> None:
    _row(record_property, "web identity")
    (tmp_path / "token").write_text("a-web-token")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
    monkeypatch.setenv("AWS_ROLE_ARN", ROLE)
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", giver.url)
    opened().put("m", b"x")
    assert set(_users(server)) == {"AKROLE1"}
    assert giver.asked == ["AssumeRoleWithWebIdentity"]


def test_given_credentials_win_over_found_ones(
    server: ScriptedS3, opened: Opened, monkeypatch: pytest.MonkeyPatch, record_property: Record
) -> None:
    _row(record_property, "configuration")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKENV")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "token")
    opened(access_key="AKGIVEN", secret_key="secret").put("m", b"x")
    assert set(_users(server)) == {"AKGIVEN"}
    assert not any("x-amz-security-token" in headers for headers in server.headers)


def test_anonymous_requests_carry_nothing(
    server: ScriptedS3, opened: Opened, monkeypatch: pytest.MonkeyPatch, record_property: Record
) -> None:
    _row(record_property, "anonymous")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKENV")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    store = opened(anonymous=True)
    store.put("m", b"x")
    assert store.get("m", max_bytes=1) == b"x"
    assert set(_users(server)) == {"-"}


# -- their end --------------------------------------------------------------------------------


def test_a_role_s_credentials_are_renewed_before_they_end(
    server: ScriptedS3, giver: CredentialServer, opened: Opened, monkeypatch: pytest.MonkeyPatch, record_property: Record
) -> None:
    """botocore fetches new ones from 15 minutes before the end on, and has to from 10 on; an instance's it goes on using."""
    _row(record_property, "renewed before they end")
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{giver.url}/container")
    monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", "container-token")
    giver.life_s = 300.0
    store = opened()
    store.put("m", b"x")
    first = _users(server)[-1]
    giver.life_s = 3600.0
    store.put("m", b"y")
    store.put("m", b"z")
    users = _users(server)
    assert users[-1] != first
    assert users[-1] == f"AKROLE{giver.given}"


@pytest.mark.fault("S6", "an expired session token: looked for anew, once", promise=1)
@pytest.mark.parametrize("operation", ["put", "get", "head"])
def test_expired_credentials_of_a_file_are_read_again_once(
    server: ScriptedS3, opened: Opened, tmp_path: Path, record_property: Record, operation: str
) -> None:
    """A HEAD has no words: its answer is a bare 400."""
    _row(record_property, "renewed after ExpiredToken")
    file = tmp_path / "credentials"

    def write(number: int) -> None:
        file.write_text(
            f"[default]\naws_access_key_id = AK{number}\naws_secret_access_key = s\naws_session_token = token-{number}\n"
        )

    write(1)
    store = opened()
    store.put("m", b"x")
    server.token_ended = "token-1"
    write(2)  # as whoever renews them does
    before = len(server.requests)
    {"put": lambda: store.put("m", b"y"), "get": lambda: store.get("m", max_bytes=9), "head": lambda: store.head("m")}[
        operation
    ]()
    users = _users(server)[before:]
    old = 2 if operation == "head" else 1  # botocore follows a 400 to a HEAD with one of the bucket, for its region
    assert users == ["AK1"] * old + ["AK2"] * (len(users) - old)
    assert len(users) > old


@pytest.mark.fault("S6", "an expired session token that nobody renews: one line", promise=4)
def test_expired_credentials_that_nobody_renews_are_told_after_one_look(
    server: ScriptedS3, opened: Opened, tmp_path: Path
) -> None:
    (tmp_path / "credentials").write_text(
        "[default]\naws_access_key_id = AK1\naws_secret_access_key = s\naws_session_token = token-1\n"
    )
    store = opened()
    server.token_ended = "token-1"
    with pytest.raises(AccessDenied, match="the session token has expired"):
        store.put("m", b"x")
    assert server.count("put") == 2


def test_expired_credentials_that_were_given_are_not_tried_again(server: ScriptedS3, opened: Opened) -> None:
    store = opened(access_key="a", secret_key="b", session_token="given-token")
    server.token_ended = "given-token"
    with pytest.raises(AccessDenied, match="the session token has expired") as caught:
        store.put("m", b"x")
    assert server.count("put") == 1
    assert "given-token" not in f"{caught.value!r} {caught.value.hint} {caught.value.context}"


def test_many_threads_that_meet_an_expired_token_at_once_all_go_on(
    server: ScriptedS3, opened: Opened, tmp_path: Path
) -> None:
    file = tmp_path / "credentials"
    text = "[default]\naws_access_key_id = AK{0}\naws_secret_access_key = s\naws_session_token = token-{0}\n"
    file.write_text(text.format(1))
    store = opened()
    store.put("m", b"x")
    file.write_text(text.format(2))
    server.token_ended = "token-1"
    errors: list[BaseException] = []

    def run(number: int) -> None:
        try:
            store.put(f"m{number}", b"x")
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert errors == []
    assert len(server.objects) == 9


@pytest.mark.fault("S6", "whoever gives credentials is away in mid-run: waited for", promise=1)
def test_a_service_of_credentials_that_is_away_in_mid_run_is_waited_for(
    server: ScriptedS3, giver: CredentialServer, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{giver.url}/container")
    monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", "container-token")
    giver.life_s = 120.0  # within what has to be renewed
    store = opened()
    store.put("m", b"x")
    giver.is_down = True
    asked = len(giver.asked)
    errors: list[BaseException] = []

    def run() -> None:
        try:
            store.put("m", b"y")
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    wait_until(lambda: len(giver.asked) >= asked + 3, deadline_s=10, what="it is asked again")
    assert thread.is_alive()
    giver.life_s = 3600.0
    giver.is_down = False
    thread.join(15)
    assert errors == []
    assert server.objects["p/m"].data == b"y"


# -- the server's certificate -----------------------------------------------------------------


def test_a_customer_s_ca_is_believed_and_the_customer_s_key_goes_over_tls(record_property: Record) -> None:
    record_property("compatibility", {"table": "storage options", "row": "own CA", "column": "wire"})
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(SUPPORT / "self-signed.pem")
    with ScriptedS3() as server:
        server.speak_tls(context)
        options = StorageOptions(
            url="s3://bucket/p",
            endpoint_url=server.endpoint_url.replace("http://", "https://"),
            access_key="a",
            secret_key="b",
            region="us-east-1",
            path_style=True,
            ca_bundle=str(SUPPORT / "self-signed.pem"),
        )
        store = S3Store(options, client=S3fsClient(options))
        store.put("m", b"over tls")
        assert store.get("m", max_bytes=20) == b"over tls"
        assert not any("aws-chunked" in headers.get("content-encoding", "") for headers in server.headers)
        store.close()
