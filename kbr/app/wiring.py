"""Turns a `Config` into the options of the layers below, and those into open clusters, stores and supervisors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from kbr.app.stores import storage_options, warn_of_plain_http
from kbr.backup.options import BackupOptions
from kbr.config import Config
from kbr.config.model import ClusterConfig
from kbr.config.values import parse_offsets
from kbr.errors import ConfigError
from kbr.kafka.settings import MSK_IAM, ClientSettings, MskIamLogin, OidcLogin
from kbr.model import Compression
from kbr.restore.options import RestoreOptions
from kbr.runtime.supervisor import Supervisor

__all__ = [
    "StopSource",
    "backup_options",
    "client_settings",
    "required_backup_id",
    "restore_options",
    "storage_options",
    "supervisor_factory",
    "warn_of_plain_http",
]

#: zstd level of a backup that does not say one: the level that DESIGN's measurements are made with.
DEFAULT_ZSTD_LEVEL = 3
#: How long workers get to commit what they have after a stop, seconds.
STOP_TIMEOUT_S = 30.0


class StopSource(Protocol):
    """Where a wish to stop comes from: a terminal's Ctrl-C, or a program."""

    def on_stop(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` at every wish from now on; it returns at once."""

    def on_hangup(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` at every wish to read the configuration again from now on; it returns at once."""


def client_settings(config: ClusterConfig) -> ClientSettings:
    """How to reach a cluster."""
    security = config.security
    oidc = None
    if security.oauth_token_endpoint_url is not None:
        secret = security.oauth_client_secret
        oidc = OidcLogin(
            token_endpoint_url=security.oauth_token_endpoint_url,
            client_id=security.oauth_client_id,
            client_secret=None if secret is None else secret.get_secret_value(),
            scope=security.oauth_scope,
            extensions=security.oauth_extensions,
        )
    msk_iam = None
    if security.sasl_mechanism == MSK_IAM:
        msk_iam = MskIamLogin(
            region=security.aws_region,
            profile=security.aws_profile,
            role_arn=security.aws_role_arn,
            role_session=security.aws_role_session,
        )
    return ClientSettings(
        bootstrap_servers=tuple(config.bootstrap_servers),
        security_protocol=security.security_protocol,
        sasl_mechanism=security.sasl_mechanism,
        username=security.username,
        password=None if security.password is None else security.password.get_secret_value(),
        ssl_ca_location=security.ssl_ca_location,
        ssl_certificate_location=security.ssl_certificate_location,
        ssl_key_location=security.ssl_key_location,
        ssl_key_password=None if security.ssl_key_password is None else security.ssl_key_password.get_secret_value(),
        ssl_endpoint_identification_algorithm=security.ssl_endpoint_identification_algorithm,
        oidc=oidc,
        msk_iam=msk_iam,
        client=dict(config.client),
    )


def required_backup_id(config: Config) -> str:
    """The configured backup_id.

    Raises:
        ConfigError: there is none.
    """
    if config.backup_id is None:
        raise ConfigError("no backup_id", hint="set backup_id in the file, or give --backup-id")
    return config.backup_id


def backup_options(config: Config) -> BackupOptions:
    """What a backup run is told."""
    backup = config.backup
    level = backup.compression_level
    if level is None and backup.compression is Compression.ZSTD:
        level = DEFAULT_ZSTD_LEVEL
    return BackupOptions(
        backup_id=required_backup_id(config),
        include=tuple(config.source.topics.include),
        exclude=tuple(config.source.topics.exclude),
        include_internal=backup.include_internal_topics,
        isolation_level=backup.isolation_level,
        compression=backup.compression,
        compression_level=level,
        segment_max_bytes=backup.segment_max_bytes,
        segment_max_interval_ms=backup.segment_max_interval_ms,
        bytes_per_s=backup.rate_limit or 0,
        records_per_s=backup.rate_limit_records or 0,
        workers=backup.workers,
        compress_threads=backup.compress_threads,
        extra_verify=backup.extra_verify,
        memory_limit=backup.memory_limit,
        checkpoint_interval_s=backup.checkpoint_interval_ms / 1000,
        continuous=backup.continuous,
        on_missing_topic=backup.on_missing_topic,
        consumer_groups=backup.consumer_groups,
        time_window_start_ms=backup.time_window_start,
        time_window_end_ms=backup.time_window_end,
        index=backup.index,
        max_manifest_bytes=config.limits.max_manifest_bytes,
    )


def restore_options(config: Config) -> RestoreOptions:
    """What a restore run is told."""
    restore = config.restore
    return RestoreOptions(
        backup_id=required_backup_id(config),
        include=tuple(config.target.topics.include),
        exclude=tuple(config.target.topics.exclude),
        time_window_start_ms=restore.time_window_start,
        time_window_end_ms=restore.time_window_end,
        offset_windows={
            topic: {number: parse_offsets(text) for number, text in windows.items()}
            for topic, windows in restore.offset_windows.items()
        },
        topic_mapping=dict(restore.topic_mapping),
        topic_prefix=restore.topic_prefix,
        topic_suffix=restore.topic_suffix,
        partition_mapping={topic: dict(moves) for topic, moves in restore.partition_mapping.items()},
        source_partitions=dict(restore.source_partitions),
        partitioner=restore.partitioner,
        target_partitions=dict(restore.target_partitions),
        merge=restore.merge,
        include_original_offset_header=restore.include_original_offset_header,
        append=restore.append,
        accept_cleanup=restore.accept_cleanup,
        allow_incomplete=restore.allow_incomplete,
        offset_map=restore.offset_map,
        create_topics=restore.create_topics,
        existing_topics=restore.existing_topics,
        replication_factor=restore.replication_factor,
        topic_configs=dict(restore.topic_configs),
        compression=restore.compression,
        zero_timestamp_as=restore.zero_timestamp_as,
        bytes_per_s=restore.rate_limit or 0,
        records_per_s=restore.rate_limit_records or 0,
        workers=restore.workers,
        memory_limit=restore.memory_limit,
        max_block_bytes=config.limits.max_block_bytes,
        max_manifest_bytes=config.limits.max_manifest_bytes,
    )


def supervisor_factory(
    stop: StopSource | None, *, preload: tuple[str, ...], withheld: frozenset[str] = frozenset()
) -> Callable[[int, str], Supervisor]:
    """Makes supervisors that end when ``stop`` says so.

    Args:
        stop: where the wish comes from; None if the caller passes it on.
        preload: modules that workers need, imported once for all of them.
        withheld: environment variables that the configuration has taken something from.
    """

    def new_supervisor(worker_count: int, entry: str) -> Supervisor:
        supervisor = Supervisor(
            entry=entry, worker_count=worker_count, preload=preload, withheld=withheld, stop_timeout_s=STOP_TIMEOUT_S
        )
        if stop is not None:
            stop.on_stop(supervisor.stop)
        return supervisor

    return new_supervisor
