"""Tokens that end while a run goes on: it goes on, with new ones. OpenID Connect by librdkafka, Amazon MSK by its signer."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.cli import run_kbr_json
from tests.support.kafka import send
from tests.support.mixed_topics import BASE_MS
from tests.support.msk_front import MskFront
from tests.support.secure_kafka import Right, SecureKafka, Way
from tests.support.secure_runs import back_up, restore
from tests.support.servers import REPOSITORY

WAY = Way("SASL_SSL", "OAUTHBEARER")
RECORD_BYTES = 5000
ACCESS_KEY, SECRET_KEY = "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"

#: Loaded by every Python that is started with it on its path: AWS's signer makes tokens of 15 minutes, here of 5 s, and it
#: is noted who has asked for one.
SHORT_TOKENS = """
import os
from aws_msk_iam_sasl_signer import MSKAuthTokenProvider as signer

signer.DEFAULT_TOKEN_EXPIRY_SECONDS = 5
_sign = signer.generate_auth_token

def _noted(region, *arguments, **more):
    with open(os.environ["SIGNED"], "a") as file:
        file.write(f"{os.getpid()} {region}\\n")
    return _sign(region, *arguments, **more)

signer.generate_auth_token = _noted
"""


def _filled(secure: SecureKafka, count: int) -> str:
    topic = secure.harness.create_topic(secure.name("tokens"), 1)
    source = random.Random(count)
    records = [{"value": source.randbytes(RECORD_BYTES), "timestamp": BASE_MS + number} for number in range(count)]
    # in many batches: what a broker gives at once is fetched before a token has ended, whatever the rate
    send(secure.harness.producer(batch_size=20_000), topic, records)
    return topic


def _exact(secure: SecureKafka, topic: str) -> list[list[tuple[object, ...]]]:
    return [[one.exact for one in part] for part in secure.harness.read_all(topic)]


@pytest.fixture
def short_tokens(secure_kafka: SecureKafka) -> Iterator[None]:
    """Tokens of the OpenID Connect server end soon, and with them the sessions that they were given for."""
    before, secure_kafka.oidc.life_s = secure_kafka.oidc.life_s, 3.0
    yield
    secure_kafka.oidc.life_s = before


@pytest.mark.fault("K11", "tokens end in the middle of a run, on a broker that ends their sessions", promise=1)
@pytest.mark.usefixtures("short_tokens")
def test_a_run_outlives_its_tokens(
    secure_kafka: SecureKafka, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    topic = _filled(secure_kafka, 700)
    target = secure_kafka.name("target")
    before = len(secure_kafka.oidc.issued)
    with secure_kafka.rights("User:reader", [Right("Read", "topic", topic)]):
        done = back_up(secure_kafka, WAY, "reader", tmp_path, topic, rate_limit="500kB/s")
    assert done.exit_code == 0, done
    assert done.report["duration_s"] > 2 * secure_kafka.oidc.life_s
    # the supervisor's client and the worker's, each at least three
    assert len(secure_kafka.oidc.issued) - before >= 6
    before = len(secure_kafka.oidc.issued)
    with secure_kafka.rights("User:writer", [Right("Write", "topic", target), Right("Create", "topic", target)]):
        done = restore(secure_kafka, WAY, "writer", tmp_path, topic, target, rate_limit="500kB/s")
    assert done.exit_code == 0, done
    assert done.report["duration_s"] > 2 * secure_kafka.oidc.life_s
    assert len(secure_kafka.oidc.issued) - before >= 6
    assert _exact(secure_kafka, target) == _exact(secure_kafka, topic)
    record_property("compatibility", {"table": "security", "row": WAY.row, "column": "refresh"})


@pytest.fixture
def msk(secure_kafka: SecureKafka) -> Iterator[MskFront]:
    """A listener that takes Amazon MSK's tokens."""
    front = MskFront(
        secure_kafka.front_port, secure_kafka.port("FRONTED"), access_key=ACCESS_KEY, secret_key=SECRET_KEY
    )
    yield front
    front.close()


@pytest.mark.fault("K11", "Amazon MSK's tokens end in the middle of a run, in workers too", promise=1)
def test_amazon_msks_tokens_are_signed_anew_in_every_process_before_they_end(
    secure_kafka: SecureKafka, msk: MskFront, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    topic = _filled(secure_kafka, 700)
    target = secure_kafka.name("target")
    (tmp_path / "python").mkdir()
    (tmp_path / "python" / "sitecustomize.py").write_text(SHORT_TOKENS)
    signed = tmp_path / "signed"
    env = {
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_REGION": "us-east-2",  # the configuration's counts
        "AWS_EC2_METADATA_DISABLED": "true",
        "PYTHONPATH": f"{tmp_path / 'python'}:{REPOSITORY}",
        "SIGNED": str(signed),
    }
    cluster = {
        "bootstrap_servers": [f"127.0.0.1:{secure_kafka.front_port}"],
        "security": {"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "AWS_MSK_IAM", "aws_region": "eu-central-1"},
    }
    config = tmp_path / "kbr.yaml"
    config.write_text(
        json.dumps(
            {
                "backup_id": "b",
                "source": {**cluster, "topics": {"include": [topic]}},
                "target": cluster,
                "storage": {"url": str(tmp_path / "store")},
                "backup": {"workers": 1, "rate_limit": "500kB/s"},
                "restore": {"workers": 1, "rate_limit": "500kB/s", "topic_mapping": {topic: target}},
            }
        )
    )
    for verb, rights in (
        ("backup", [Right("Read", "topic", topic)]),
        ("restore", [Right("Write", "topic", target), Right("Create", "topic", target)]),
    ):
        msk.logins.clear()
        signed.unlink(missing_ok=True)
        with secure_kafka.rights("User:ANONYMOUS", rights):
            run_kbr_json(verb, "-c", str(config), env=env)
        asked = [line.split() for line in signed.read_text().splitlines()]
        assert {region for _pid, region in asked} == {"eu-central-1"} == {one.region for one in msk.logins}
        times = sorted((sum(pid == one for one, _region in asked) for pid in {pid for pid, _region in asked}), reverse=True)
        # the supervisor and a worker, each more than once in seven seconds of tokens of five
        assert len(times) == 2, asked
        assert times[1] >= 2, asked
        assert any(one.is_again for one in msk.logins), "a session was gone on with by a new token"
    # a client has one second of five for a new token, and logs in anew where the machine was too busy for that
    assert set(msk.refused) <= {"it has expired"}
    assert msk.cut_off == 0
    assert _exact(secure_kafka, target) == _exact(secure_kafka, topic)
    for column in ("backup", "restore", "refresh"):
        record_property("compatibility", {"table": "security", "row": "SASL_SSL AWS_MSK_IAM (its tokens, without AWS)", "column": column})
