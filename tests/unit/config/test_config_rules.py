"""Which keys belong together, and what a single value may be."""

from __future__ import annotations

from pathlib import Path

import pytest

from kbr.config import Config, load_config
from kbr.errors import ConfigError

S3 = "storage: {url: 's3://bucket'}\n"


def load(tmp_path: Path, text: str) -> Config:
    path = tmp_path / "kbr.yaml"
    path.write_text(text, encoding="utf-8")
    return load_config(path, environ={}, run_commands=False)


def mistakes(tmp_path: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    return [line.split(": key ", 1)[1] for line in caught.value.context["problems"]]


@pytest.mark.parametrize(
    ("security", "expected"),
    [
        ("{sasl_mechanism: PLAIN}", ["sasl_mechanism: needs security_protocol SASL_SSL or SASL_PLAINTEXT"]),
        ("{security_protocol: SASL_SSL}", ["sasl_mechanism: is missing: security_protocol is SASL_SSL"]),
        (
            "{security_protocol: SASL_SSL, sasl_mechanism: SCRAM-SHA-256}",
            ["password: is missing: sasl_mechanism is SCRAM-SHA-256", "username: is missing"],
        ),
        (
            "{security_protocol: SASL_PLAINTEXT, sasl_mechanism: PLAIN, username: a, password: b, ssl_ca_location: /x}",
            ["ssl_ca_location: needs security_protocol SSL or SASL_SSL"],
        ),
        ("{ssl_key_location: /x}", ["ssl_key_location: needs security_protocol SSL or SASL_SSL"]),
        (
            "{security_protocol: SASL_SSL, sasl_mechanism: PLAIN, username: a, password: b, password_command: [c]}",
            ["password_command: excludes password"],
        ),
        (
            "{security_protocol: SASL_SSL, sasl_mechanism: OAUTHBEARER, oauth_client_id: a}",
            ["oauth_client_secret: is missing: sasl_mechanism is OAUTHBEARER", "oauth_token_endpoint_url: is missing"],
        ),
        (
            "{security_protocol: SASL_SSL, sasl_mechanism: PLAIN, username: a, password: b, oauth_scope: c, aws_region: d}",
            ["oauth_scope: excludes sasl_mechanism PLAIN", "aws_region: excludes sasl_mechanism PLAIN: it is for AWS_MSK_IAM"],
        ),
        ("{aws_profile: x}", ["aws_profile: needs security_protocol SASL_SSL"]),
        (
            "{security_protocol: SASL_SSL, sasl_mechanism: OAUTHBEARER, oauth_token_endpoint_url: 'https://u:p@h/t', "
            "oauth_client_id: a, oauth_client_secret: b}",
            ["oauth_token_endpoint_url: holds credentials"],
        ),
        ("{security_protocol: TLS}", ["security_protocol: must be one of PLAINTEXT, SSL"]),
        ("{password_command: pass show x}", ["password_command: must be a list of a program and its arguments"]),
        ("{password_command: []}", ["password_command: must be a list of texts"]),
        ("{ssl_ca_location: ~/ca.pem}", ["ssl_ca_location: '~/ca.pem': only a shell knows '~'; write ${HOME}/ca.pem"]),
    ],
)
def test_security_keys_have_to_fit_together(tmp_path: Path, security: str, expected: list[str]) -> None:
    found = mistakes(tmp_path, f"{S3}source:\n  bootstrap_servers: a:1\n  security: {security}\n")
    assert len(found) == len(expected)
    for line, beginning in zip(found, expected, strict=True):
        assert line.startswith(f"source.security.{beginning}")


@pytest.mark.parametrize(
    "cluster",
    [
        "security: {security_protocol: SASL_SSL, sasl_mechanism: OAUTHBEARER}\n  client: {sasl.oauthbearer.method: oidc}",
        "security: {security_protocol: SASL_SSL, sasl_mechanism: PLAIN}\n  client: {sasl.username: a, sasl.password: b}",
        "client: {security.protocol: SASL_SSL, sasl.mechanism: PLAIN, sasl.username: a, sasl.password: b}",
        "security: {security_protocol: ssl, ssl_ca_location: /ca, ssl_certificate_location: /c, ssl_key_location: /k}",
        "security: {security_protocol: SASL_SSL, sasl_mechanism: PLAIN, username: a, password_command: [b]}",
        "security: {security_protocol: SASL_SSL, sasl_mechanism: oauthbearer, oauth_token_endpoint_url: 'https://h/t?x=1', "
        "oauth_client_id: a, oauth_client_secret_command: [b]}",
        "security: {security_protocol: SASL_SSL, sasl_mechanism: aws_msk_iam, aws_role_arn: a}",
        "security: {security_protocol: SASL_SSL, sasl_mechanism: gssapi}",
    ],
)
def test_security_that_fits_is_accepted(tmp_path: Path, cluster: str) -> None:
    load(tmp_path, f"{S3}target:\n  bootstrap_servers: a:1\n  {cluster}\n")


@pytest.mark.parametrize(
    ("storage", "expected"),
    [
        ("{}", ["url: is missing"]),
        ("{bucket: b}", ["backend: is missing: say s3, ceph or filesystem"]),
        ("{backend: s3}", ["bucket: is missing: backend is s3"]),
        ("{backend: ceph, bucket: b}", ["endpoint: is missing: backend is ceph"]),
        ("{backend: filesystem}", ["path: is missing: backend is filesystem"]),
        ("{backend: filesystem, path: /x, bucket: b}", ["bucket: is for s3 and ceph"]),
        ("{backend: s3, bucket: b, path: /x}", ["path: is for filesystem, and backend is s3"]),
        ("{backend: azure, bucket: b}", ["backend: must be one of s3, ceph, filesystem, not 'azure'"]),
        ("{url: 's3://b', bucket: c}", ["bucket: excludes url"]),
        ("{url: /x, endpoint: 'http://h'}", ["endpoint: is for s3 and ceph, and backups lie in a folder"]),
        ("{url: 's3://b', access_key: a}", ["secret_key: is missing: access_key is given"]),
        ("{url: 's3://b', secret_key: a}", ["access_key: is missing: secret_key is given"]),
        ("{url: 's3://b', session_token: a}", ["session_token: needs access_key and secret_key"]),
        (
            "{url: 's3://b', access_key: a, secret_key: b, secret_key_command: [c]}",
            ["secret_key_command: excludes secret_key"],
        ),
        ("{url: 'http://b'}", ["url: http:// can't hold backups: it can only be read"]),
        ("{url: 'memory://b'}", ["url: memory:// can't hold backups"]),
        ("{url: 'sftp://u:p@h/x'}", ["url: may hold credentials: use storage.options"]),
        ("{url: 'simplecache::gs://b'}", ["url: is no URL of one filesystem"]),
        ("{url: 'gs://b/../c'}", ["url: has a '.' or '..' step"]),
        ("{url: 'gs://b', sse: AES256}", ["sse: is for s3 and ceph, and backups lie at gs://"]),
        ("{url: 's3://b', options: {a: b}}", ["options: are for URLs of other filesystems"]),
        ("{path: /x, backend: filesystem, options: {a: b}}", ["options: are for URLs of other filesystems"]),
        ("{url: 'gs://b', options: {a-b: c}}", ["options.a-b: 'a-b' is no option's name"]),
        ("{url: 's3://b', profile: p, access_key: a, secret_key: b}", ["profile: excludes access_key"]),
        ("{url: 's3://b', profile: p, anonymous: true}", ["anonymous: excludes credentials"]),
        ("{url: 's3://b', sse: AES256, sse_customer_key: a}", ["sse: excludes sse_customer_key"]),
        ("{url: 's3://b', sse_customer_key: a, sse_customer_key_command: [b]}", ["sse_customer_key_command: excludes"]),
        ("{url: 's3://b', sse_kms_key_id: k}", ["sse_kms_key_id: needs sse aws:kms, and that is none"]),
        ("{url: 's3://b', sse: aes}", ["sse: must be one of none, AES256, aws:kms"]),
        ("{url: 's3://b', storage_class: glacier}", ["storage_class: glacier can't be read at once"]),
        ("{url: 's3://b', storage_class: 'a b'}", ["storage_class: 'a b' is no storage class"]),
        ("{url: 's3://b', object_lock_mode: governance}", ["object_lock_retain_days: is missing"]),
        ("{url: 's3://b', object_lock_retain_days: 3}", ["object_lock_mode: is missing"]),
        ("{url: 's3://b', object_lock_mode: legal, object_lock_retain_days: 1}", ["object_lock_mode: must be one of"]),
        ("{url: 's3://b', object_lock_mode: governance, object_lock_retain_days: 0}", ["object_lock_retain_days: must be 1"]),
        ("{url: 's3://b', tags: {'aws:a': b}}", ["tags.aws:a: 'aws:a' is no tag"]),
        ("{url: 's3://b', tags: {a: 'b&c'}}", ["tags.a: 'b&c' can't be a tag's value"]),
        (
            "{url: 's3://b', tags: {a: 1, b: 2, c: 3, d: 4, e: 5, f: 6, g: 7, h: 8, i: 9, j: 10, k: 11}}",
            ["tags: are more than the 10 that an object can have"],
        ),
        ("{url: 's3://'}", ["url: '' is no bucket name"]),
        ("{url: 's3://b/../c'}", ["url: '../c' has an empty, '.' or '..' step"]),
        ("{url: 'file://host/x'}", ["url: 'file://host/x': write file:///absolute/path"]),
        ("{url: 's3://b', endpoint: 'host:9000'}", ["endpoint: 'host:9000' is no endpoint"]),
        ("{url: 's3://b', endpoint: 'http://h:x'}", ["endpoint: 'http://h...' is no URL"]),
        ("{url: 's3://b', deadline_ms: 5}", ["deadline_ms: must be 100 or more"]),
    ],
)
def test_storage_keys_have_to_fit_together(tmp_path: Path, storage: str, expected: list[str]) -> None:
    found = mistakes(tmp_path, f"storage: {storage}\n")
    assert len(found) == len(expected), found
    for line, beginning in zip(found, expected, strict=True):
        assert line.startswith(f"storage.{beginning}")


@pytest.mark.parametrize(
    "storage", ["{url: 's3://AKIA:hunter2@b/p'}", "{url: 's3://b', endpoint: 'http://u:hunter2@h'}"]
)
def test_credentials_in_a_url_are_refused_and_not_repeated(tmp_path: Path, storage: str) -> None:
    (line,) = mistakes(tmp_path, f"storage: {storage}\n")
    assert "holds credentials" in line
    assert "hunter2" not in line


@pytest.mark.parametrize(
    ("storage", "location"),
    [
        ("{url: ./backups}", "./backups"),
        ("{url: 'file:///var/b'}", "/var/b"),
        ("{url: 's3://b/p/q/'}", "s3://b/p/q"),
        ("{url: 's3://b'}", "s3://b"),
        ("{backend: filesystem, path: /var/b}", "/var/b"),
        ("{backend: s3, bucket: b}", "s3://b"),
        ("{backend: s3, bucket: b, prefix: /p/}", "s3://b/p"),
    ],
)
def test_every_way_to_name_a_place_gives_its_location(tmp_path: Path, storage: str, location: str) -> None:
    assert load(tmp_path, f"storage: {storage}\n").storage.location == location


def test_path_style_fits_the_endpoint_unless_it_is_given(tmp_path: Path) -> None:
    assert not load(tmp_path, "storage: {url: 's3://b'}\n").storage.uses_path_style
    assert load(tmp_path, "storage: {url: 's3://b', endpoint: 'http://h'}\n").storage.uses_path_style
    assert not load(
        tmp_path, "storage: {url: 's3://b', endpoint: 'http://h', path_style: no}\n"
    ).storage.uses_path_style


@pytest.mark.parametrize(
    ("brokers", "message"),
    [
        ("kafka", "has no port"),
        ("http://kafka:9092", "no broker address"),
        ("'kafka:9092 '", None),
        ("'kafka:99999'", "outside 1 to 65535"),
        ("'a:1,,b:2'", "no broker address"),
        ("'[::1]:9092'", None),
        ("'::1:9092'", "no broker address"),
        ("SASL_SSL://kafka:9092", None),
        ("[]", "name a broker"),
    ],
)
def test_brokers_are_host_and_port(tmp_path: Path, brokers: str, message: str | None) -> None:
    text = f"{S3}source: {{bootstrap_servers: {brokers}}}\n"
    if message is None:
        load(tmp_path, text)
    else:
        assert message in mistakes(tmp_path, text)[0]


@pytest.mark.parametrize("pattern", ["orders", "a.b-c_d", "*", "pay-?", "x[0-9]", "[!a]*"])
def test_globs_are_accepted(tmp_path: Path, pattern: str) -> None:
    config = load(tmp_path, f"{S3}source: {{bootstrap_servers: 'a:1', topics: {{include: ['{pattern}']}}}}\n")
    assert config.source.topics.include == (pattern,)


@pytest.mark.parametrize("pattern", ["a b", "a/b", "{a,b}", "[", "a]", "^a$", "ä", ".", "", "x" * 250])
def test_what_is_no_glob_is_refused(tmp_path: Path, pattern: str) -> None:
    text = f"{S3}source: {{bootstrap_servers: 'a:1', topics: {{include: ['{pattern}']}}}}\n"
    assert "no topic name or glob" in mistakes(tmp_path, text)[0]


@pytest.mark.parametrize(
    ("restore", "expected"),
    [
        ("{topic_mapping: {a: 'b/c'}}", "restore.topic_mapping.a: 'b/c' is no topic name"),
        ("{topic_mapping: {'a?': b}}", "restore.topic_mapping.a?: 'a?' is no topic name"),
        ("{topic_mapping: {'a*': 'b/*'}}", "restore.topic_mapping.a*: 'b/*' is no topic name or pattern"),
        ("{topic_prefix: 'a/'}", "restore.topic_prefix: 'a/' can't be in a topic's name"),
        ("{partitioner: murmur}", "restore.partitioner: must be one of original, murmur2, consistent, round-robin"),
        ("{existing_topics: maybe}", "restore.existing_topics: must be one of keep, check, apply, fail"),
        ("{target_partitions: {a: 0}}", "restore.target_partitions.a: must be from 1 to 1000000"),
        ("{source_partitions: {a: '3-1'}}", "restore.source_partitions.a: must be partitions such as 0,2-5"),
        ("{source_partitions: {a: ''}}", "restore.source_partitions.a: names no partition"),
        ("{source_partitions: {a: '0-9999999999'}}", "restore.source_partitions.a: must be partitions such as 0,2-5"),
        ("{topic_mapping: a}", "restore.topic_mapping: must be a mapping"),
        ("{partition_mapping: {a: {0: x}}}", "restore.partition_mapping.a.0: must be a whole number"),
        ("{partition_mapping: {a: {0: -1}}}", "restore.partition_mapping.a.0: partition -1 is out of range"),
        ("{partition_mapping: {a: 5}}", "restore.partition_mapping.a: must be a mapping"),
        ("{replication_factor: 0}", "restore.replication_factor: must be 1 or more"),
        ("{topic_configs: {retention.ms: [1]}}", "restore.topic_configs.retention.ms: must be a text, a number"),
        (
            "{time_window_start: 1714564800001, time_window_end: 1714564800000}",
            "restore.time_window_end: is before time_window_start",
        ),
        ("{time_window_start: 1714564800}", "restore.time_window_start: 1714564800 looks like seconds"),
    ],
)
def test_restore_keys_are_checked(tmp_path: Path, restore: str, expected: str) -> None:
    (line,) = mistakes(tmp_path, f"{S3}restore: {restore}\n")
    assert line.startswith(expected)


@pytest.mark.parametrize(
    ("backup", "valid"),
    [
        ("{compression_level: 22}", True),
        ("{compression_level: -5}", True),
        ("{compression_level: 23}", False),
        ("{compression: lz4, compression_level: 12}", True),
        ("{compression: lz4, compression_level: 17}", False),
        ("{compression: none, compression_level: 1}", False),
        ("{compression: none}", True),
    ],
)
def test_a_level_has_to_fit_the_compression(tmp_path: Path, backup: str, valid: bool) -> None:
    text = f"{S3}backup: {backup}\n"
    if valid:
        load(tmp_path, text)
    else:
        assert mistakes(tmp_path, text)[0].startswith("backup.compression_level: ")


@pytest.mark.parametrize(
    ("backup", "expected"),
    [
        ("{time_window_start: 2000, time_window_end: 1000}", "backup.time_window_end: is before time_window_start"),
        ("{continuous: true, time_window_end: 1000}", "backup.time_window_end: excludes continuous"),
        ("{time_window_start: '2024-05-01T12:00:00'}", "backup.time_window_start: '2024-05-01T12:00:00' has no time zone"),
    ],
)
def test_a_window_of_a_backup_has_to_make_sense(tmp_path: Path, backup: str, expected: str) -> None:
    (line,) = mistakes(tmp_path, f"{S3}backup: {backup}\n")
    assert line.startswith(expected)


@pytest.mark.parametrize(
    ("windows", "expected"),
    [
        ("{a: {0: 9-8}}", "restore.offset_windows.a.0: '9-8' ends before it begins"),
        ("{a: {0: x}}", "restore.offset_windows.a.0: must be offsets such as 100-200"),
        ("{a: {-1: 1-2}}", "restore.offset_windows.a.-1: partition -1 is out of range"),
        ("{a: 1-2}", "restore.offset_windows.a: must be a mapping"),
    ],
)
def test_windows_of_offsets_are_checked(tmp_path: Path, windows: str, expected: str) -> None:
    (line,) = mistakes(tmp_path, f"{S3}restore: {{offset_windows: {windows}}}\n")
    assert line.startswith(expected)


def test_one_window_of_offsets_is_set_by_topic_and_partition(tmp_path: Path) -> None:
    (tmp_path / "kbr.yaml").write_text(f"{S3}restore: {{offset_windows: {{o.x: {{0: 5}}}}}}\n", encoding="utf-8")
    config = load_config(tmp_path / "kbr.yaml", sets=["restore.offset_windows.o.x.1=7-"], environ={}, run_commands=False)
    assert {topic: dict(one) for topic, one in config.restore.offset_windows.items()} == {"o.x": {0: "5", 1: "7-"}}
    with pytest.raises(ConfigError, match=r"names no partition: write TOPIC\.PARTITION=FROM-TO"):
        load_config(None, sets=["restore.offset_windows.o=7-"], environ={}, run_commands=False)
