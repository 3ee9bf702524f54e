"""client.properties of Java's tools: read as Java reads it, and as keys of ours below all others."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from kbr.config import load_config
from kbr.config.jaas import parse_jaas
from kbr.config.java_client import translate_client_properties
from kbr.config.java_names import DIRECT, JAVA_ONLY, NUMBERS
from kbr.errors import ConfigError
from kbr.kafka.properties import is_known_property, settable_names

SECRET = "hush: =#!hush"
PEM = "-----BEGIN CERTIFICATE-----\n"


def _load(tmp_path: Path, text: str, *, yaml: str = "", encoding: str = "latin-1", **overrides: object) -> Any:
    (tmp_path / "client.properties").write_text(text, encoding=encoding)
    (tmp_path / "kbr.yaml").write_text(yaml)
    values = {
        "backup_id": "b",
        "storage.url": str(tmp_path / "store"),
        "source.command_config": str(tmp_path / "client.properties"),
        **{name.replace("__", "."): value for name, value in overrides.items()},
    }
    return load_config(tmp_path / "kbr.yaml", overrides=values, environ={}, mode="backup")


def _refused(tmp_path: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        _load(tmp_path, "bootstrap.servers=a:1\n" + text)
    assert SECRET not in f"{caught.value} {caught.value.hint} {caught.value.context}"
    return f"{caught.value} ({caught.value.hint})"


def test_confluent_clouds_file_is_enough(tmp_path: Path) -> None:
    config = _load(
        tmp_path,
        """# Required connection configs for Kafka producer, consumer, and admin
bootstrap.servers=pkc-1.eu-central-1.aws.confluent.cloud:9092
security.protocol=SASL_SSL
sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required username='KEY' password='s3cr\\u0065t/+';
sasl.mechanism=PLAIN
# Required for correctness in Apache Kafka clients prior to 2.6
client.dns.lookup=use_all_dns_ips
session.timeout.ms=45000
acks=all
schema.registry.url=https://psrc-1.eu-central-1.aws.confluent.cloud
basic.auth.user.info=KEY:SECRET
""",
    )
    security = config.source.security
    assert config.source.bootstrap_servers == ("pkc-1.eu-central-1.aws.confluent.cloud:9092",)
    assert (security.security_protocol, security.sasl_mechanism, security.username) == ("SASL_SSL", "PLAIN", "KEY")
    assert security.password.get_secret_value() == "s3cret/+"
    assert dict(config.source.client) == {"client.dns.lookup": "use_all_dns_ips"}
    (note,) = config.warnings
    assert note.endswith("left out: session.timeout.ms, acks, schema.registry.url, basic.auth.user.info")


def test_java_properties_are_read_as_java_reads_them(tmp_path: Path) -> None:
    config = _load(
        tmp_path,
        "! a comment\n"
        "bootstrap.servers : a:1,\\\n"
        "    b:2\n"
        "client.id caf\xe9\n"
        "security.protocol\t=\tSASL_PLAINTEXT\n"
        "sasl.mechanism=SCRAM-SHA-256\n"
        'sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required /* us */ \\\n'
        '  username="me" \\\n'
        '  password="a\\\\"b\\\\\\\\c=;" // the end\\n;\n',
    )
    assert config.source.bootstrap_servers == ("a:1", "b:2")
    assert config.source.client["client.id"] == "café"
    security = config.source.security
    assert (security.sasl_mechanism, security.username) == ("SCRAM-SHA-256", "me")
    assert security.password.get_secret_value() == 'a"b\\c=;'


def test_keys_of_ours_win_and_each_value_says_where_it_is_from(tmp_path: Path) -> None:
    config = _load(
        tmp_path,
        "bootstrap.servers=java:1\nclient.id=java\nrequest.timeout.ms=5000\nssl.endpoint.identification.algorithm=\n"
        "security.protocol=SSL\nretry.backoff.ms=70\n",
        yaml="source:\n  client:\n    socket.timeout.ms: 7000\n",
        source__bootstrap_servers="flag:1",
    )
    assert config.source.bootstrap_servers == ("flag:1",)
    assert dict(config.source.client) == {"socket.timeout.ms": "7000", "client.id": "java", "retry.backoff.ms": "70"}
    # empty is Java's way to say that a certificate's name does not matter
    assert config.source.security.ssl_endpoint_identification_algorithm == "none"
    assert config.origin_of(("source", "client", "client.id")).where.endswith("client.properties:2")
    assert config.origin_of(("source", "client", "socket.timeout.ms")).where.endswith("kbr.yaml:3:5")


def test_a_password_command_wins_over_the_files_password(tmp_path: Path) -> None:
    config = _load(
        tmp_path,
        "bootstrap.servers=a:1\nsecurity.protocol=SASL_SSL\nsasl.mechanism=PLAIN\n"
        'sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required username="u" password="file";\n',
        yaml='source:\n  security:\n    password_command: ["printf", "command"]\n',
    )
    assert config.source.security.password.get_secret_value() == "command"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "security.protocol=SASL_SSL\nsasl.mechanism=OAUTHBEARER\n"
            "sasl.login.callback.handler.class=org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginCallbackHandler\n"
            "sasl.oauthbearer.token.endpoint.url=https://login/token\n"
            "sasl.jaas.config=org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required clientId='id' "
            "clientSecret='se' scope='kafka' extension_logicalCluster='lkc-1' extension_identityPoolId='pool-1';\n",
            {
                "sasl_mechanism": "OAUTHBEARER",
                "oauth_token_endpoint_url": "https://login/token",
                "oauth_client_id": "id",
                "oauth_client_secret": "se",
                "oauth_scope": "kafka",
                "oauth_extensions": "logicalCluster=lkc-1,identityPoolId=pool-1",
            },
        ),
        (
            "security.protocol=SASL_SSL\nsasl.mechanism=OAUTHBEARER\nsasl.oauthbearer.token.endpoint.url=https://login/token\n"
            "sasl.oauthbearer.client.credentials.client.id=id\nsasl.oauthbearer.client.credentials.client.secret=se\n",
            {"oauth_client_id": "id", "oauth_client_secret": "se"},
        ),
        (
            "security.protocol=SASL_SSL\nsasl.mechanism=AWS_MSK_IAM\n"
            "sasl.client.callback.handler.class=software.amazon.msk.auth.iam.IAMClientCallbackHandler\n"
            'sasl.jaas.config=software.amazon.msk.auth.iam.IAMLoginModule required awsProfileName="backup" '
            'awsRoleArn="arn:aws:iam::1:role/r" awsRoleSessionName="s" awsDebugCreds="true";\n',
            {"sasl_mechanism": "AWS_MSK_IAM", "aws_profile": "backup", "aws_role_arn": "arn:aws:iam::1:role/r", "aws_role_session": "s"},
        ),
        (
            "security.protocol=SASL_SSL\nsasl.mechanism=OAUTHBEARER\n"
            "sasl.login.callback.handler.class=software.amazon.msk.auth.iam.IAMOAuthBearerLoginCallbackHandler\n"
            "sasl.jaas.config=org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required awsProfileName='p';\n",
            {"sasl_mechanism": "AWS_MSK_IAM", "aws_profile": "p"},
        ),
        (
            "security.protocol=SASL_SSL\n"
            "sasl.jaas.config=com.sun.security.auth.module.Krb5LoginModule required useKeyTab=true storeKey=true "
            'keyTab="/etc/kbr.keytab" principal="kbr@EXAMPLE.ORG" serviceName=kafka;\n',
            {"sasl_mechanism": "GSSAPI"},
        ),
    ],
    ids=["oidc", "oidc-4.1", "msk", "msk-oauth", "kerberos"],
)
def test_every_way_to_log_in_is_translated(tmp_path: Path, text: str, expected: dict[str, str]) -> None:
    config = _load(tmp_path, "bootstrap.servers=a:1\n" + text)
    security = config.source.security
    found = {name: getattr(security, name) for name in expected}
    assert {name: getattr(value, "get_secret_value", lambda value=value: value)() for name, value in found.items()} == expected
    if "Krb5" in text:
        assert dict(config.source.client) == {
            "sasl.kerberos.keytab": "/etc/kbr.keytab",
            "sasl.kerberos.principal": "kbr@EXAMPLE.ORG",
            "sasl.kerberos.service.name": "kafka",
        }


def test_files_of_certificates_are_told_by_what_is_in_them(tmp_path: Path) -> None:
    (tmp_path / "ca").write_text(PEM)
    (tmp_path / "own").write_text("Bag Attributes\n" + PEM)
    (tmp_path / "p12").write_bytes(b"\x30\x82\x01\x00")
    text = f"bootstrap.servers=a:1\nsecurity.protocol=SSL\nssl.truststore.location={tmp_path / 'ca'}\nssl.truststore.password={SECRET}\n"
    config = _load(tmp_path, f"{text}ssl.keystore.location={tmp_path / 'own'}\nssl.key.password=k\n")
    security = config.source.security
    assert security.ssl_ca_location == str(tmp_path / "ca")
    assert security.ssl_certificate_location == security.ssl_key_location == str(tmp_path / "own")
    assert security.ssl_key_password.get_secret_value() == "k"
    config = _load(tmp_path, f"{text}ssl.keystore.location={tmp_path / 'p12'}\nssl.keystore.password=p\nssl.key.password=p\n")
    assert dict(config.source.client) == {"ssl.keystore.location": str(tmp_path / "p12"), "ssl.keystore.password": "p"}
    assert config.source.security.ssl_key_password is None


@pytest.mark.parametrize(
    ("content", "store", "words"),
    [
        (b"\xfe\xed\xfe\xed\x00", "truststore", "keytool -list -rfc -keystore"),
        (b"\x30\x82\x01\x00", "truststore", "keytool -list -rfc -keystore"),
        (b"\xfe\xed\xfe\xed\x00", "keystore", "-deststoretype PKCS12"),
        (b"hello", "keystore", "no PEM, PKCS12 or JKS file"),
        (None, "truststore", "No such file"),
    ],
)
def test_a_store_that_librdkafka_cannot_read_is_told_with_the_way_out(
    tmp_path: Path, content: bytes | None, store: str, words: str
) -> None:
    if content is not None:
        (tmp_path / "store.jks").write_bytes(content)
    text = _refused(tmp_path, f"security.protocol=SSL\nssl.{store}.location={tmp_path / 'store.jks'}\nssl.{store}.password={SECRET}\n")
    assert "client.properties:3: key source.command_config: ssl." in text
    assert words in text


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("securty.protocol=SSL", "did you mean 'security.protocol'"),
        ("sasl.jaas.config=" + SECRET, "must be 'LoginModule required"),
        ("sasl.jaas.config=com.example.Mine required;", "no counterpart for the login module com.example.Mine"),
        ("sasl.jaas.config=a.B required x='" + SECRET, "quote that is not closed"),
        ("sasl.jaas.config=a.B required x='1'; c.D required;", "more than one login module"),
        ("sasl.jaas.config=a.B required x='" + SECRET + "'", "no ';'"),
        ("sasl.login.callback.handler.class=com.example.Handler", "Java class"),
        ("request.timeout.ms=soon", "must be a whole number"),
        ("config.providers=file\nclient.id=${file:/x:y}", "config providers are Java's"),
        ("client.id=\\u12", "no properties file"),
        (
            "sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required tokenauth=true;",
            "delegation tokens",
        ),
        (
            "sasl.jaas.config=org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required "
            "unsecuredLoginStringClaim_sub='x';",
            "unsecured tokens",
        ),
    ],
)
def test_what_has_no_counterpart_is_one_line_that_names_its_place(tmp_path: Path, line: str, words: str) -> None:
    text = _refused(tmp_path, f"{line}\n")
    assert words in text
    assert re.search(r"client\.properties(:[23])?: key source\.command_config: ", text)
    assert "\n" not in text


def test_a_file_that_is_not_there_is_a_mistake_in_the_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere: key target\.command_config: can't be read: No such file"):
        load_config(
            None,
            overrides={"backup_id": "b", "storage.url": "x", "target.bootstrap_servers": "a:1", "target.command_config": "/nowhere"},
            environ={},
            mode="restore",
        )


def test_no_secret_of_the_file_is_shown(tmp_path: Path) -> None:
    from kbr.config.describe import describe_origin, to_plain

    config = _load(
        tmp_path,
        "bootstrap.servers=a:1\nsecurity.protocol=SASL_SSL\nsasl.mechanism=PLAIN\nssl.keystore.key=" + PEM.strip() + SECRET + "\n"
        f"sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required username='u' password='{SECRET}';\n",
    )
    assert config.source.security.password.get_secret_value() == SECRET
    shown = f"{to_plain(config)} {describe_origin(config)} {config!r} {config.warnings}"
    assert "hush" not in shown
    assert "hush" not in repr(parse_jaas(f"a.B required x='{SECRET}';"))


def test_what_passes_through_is_known_to_librdkafka() -> None:
    names = [steps[-1] for steps in DIRECT.values() if steps[0] == "client"] + [name for name, _least, _most in NUMBERS.values()]
    assert [name for name in names if not is_known_property(name)] == []


def test_a_name_has_one_meaning() -> None:
    assert not DIRECT.keys() & JAVA_ONLY
    assert not NUMBERS.keys() & JAVA_ONLY
    assert not DIRECT.keys() & NUMBERS.keys()


def test_librdkafkas_own_names_pass_through_too() -> None:
    found = translate_client_properties(b"socket.nagle.disable=true\n", is_librdkafkas=is_known_property, known=settable_names)
    assert found.values == {("client", "socket.nagle.disable"): ("true", 1)}
    assert found.problems == []
