"""`kbr config check`: what is wrong with a configuration, without using it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kbr.app.wiring import backup_options, client_settings, restore_options, storage_options
from kbr.config import Config
from kbr.kafka.native import load_library
from kbr.kafka.properties import check_client
from kbr.kafka.settings import ClientSettings, admin_properties

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
        _check_cluster(client_settings(config.source))
        if config.backup_id is not None:
            backup_options(config)
            verbs.append("backup")
    if config.target.bootstrap_servers:
        _check_cluster(client_settings(config.target))
        if config.backup_id is not None:
            restore_options(config)
            verbs.append("restore")
    return ConfigCheck(verbs=tuple(verbs), storage_url=storage.url, librdkafka=load_library())


def _check_cluster(settings: ClientSettings) -> None:
    admin_properties(settings)
    check_client(settings)
