"""One Kafka broker that also takes clients by SASL PLAIN with a password of the test's choice. Standard library only."""

from __future__ import annotations

from pathlib import Path

from .servers import KafkaServer, free_port

__all__ = ["SaslKafkaServer"]


class SaslKafkaServer(KafkaServer):
    """Plain clients on ``bootstrap_servers``, those who log in on ``sasl_bootstrap_servers``."""

    def __init__(self, folder: Path, *, user: str, password: str) -> None:
        super().__init__(folder, port=free_port(3), light=True)
        self._user = user
        self._password = password

    @property
    def sasl_bootstrap_servers(self) -> str:
        return f"127.0.0.1:{self.port + 2}"

    def _properties(self, number: int, data: Path) -> str:
        own = {
            "listeners": f",SASL://{self.sasl_bootstrap_servers}",
            "advertised.listeners": f",SASL://{self.sasl_bootstrap_servers}",
            "listener.security.protocol.map": ",SASL:SASL_PLAINTEXT",
        }
        lines = []
        for line in super()._properties(number, data).splitlines():
            lines.append(line + own.get(line.partition("=")[0], ""))
        module = "org.apache.kafka.common.security.plain.PlainLoginModule"
        lines += [
            "sasl.enabled.mechanisms=PLAIN",
            f'listener.name.sasl.plain.sasl.jaas.config={module} required user_{self._user}="{self._password}";',
            "",
        ]
        return "\n".join(lines)
