"""`kbr config check`: what is wrong with a configuration, without using it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kbr.app.stores import check_readable
from kbr.app.wiring import backup_options, client_settings, restore_options, storage_options
from kbr.config import Config
from kbr.config.model import ClusterConfig
from kbr.kafka.native import load_library
from kbr.kafka.properties import check_client
from kbr.kafka.settings import admin_properties

__all__ = ["ConfigCheck", "check_config"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigCheck:
    """A configuration that is right.

    Attributes:
        verbs: for which commands it is enough.
        storage_url: where it points to.
        librdkafka: the version that would be used.
    """

    verbs: tuple[str, ...]
    storage_url: str
    librdkafka: str

    @property
    def exit_code(self) -> int:
        """Always 0: mistakes are raised."""
        return 0

    def to_document(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "ok": True,
            "verbs": list(self.verbs),
            "storage": self.storage_url,
            "librdkafka": self.librdkafka,
        }


def check_config(config: Config) -> ConfigCheck:
    """Go through everything that a run would do with the configuration before it connects.

    Raises:
        ConfigError: something in it can't work.
    """
    verbs = ["list", "describe", "verify"]
    storage = storage_options(config, commands_ran=False)
    if config.source.bootstrap_servers:
        _check_cluster("source", config.source)
        if config.backup_id is not None:
            backup_options(config)
            verbs.append("backup")
    if config.target.bootstrap_servers:
        _check_cluster("target", config.target)
        if config.backup_id is not None:
            restore_options(config)
            verbs.append("restore")
    return ConfigCheck(verbs=tuple(verbs), storage_url=storage.url, librdkafka=load_library())


def _check_cluster(side: str, config: ClusterConfig) -> None:
    settings = client_settings(config)
    for name in ("ssl_ca_location", "ssl_certificate_location", "ssl_key_location"):
        # librdkafka names neither key nor file, but OpenSSL's function
        path = getattr(config.security, name)
        if path is not None and path != "probe":  # librdkafka's own word for: look where systems keep their CAs
            check_readable(f"{side}.security.{name}", path)
    admin_properties(settings)
    check_client(settings)
