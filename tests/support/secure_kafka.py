"""A real Kafka with every way to log in at once, and with access rights: one broker, a listener for each protocol.

Its users hold no rights until a test gives them some. Names and passwords are the test's own; nothing is reachable from
other machines.
"""

from __future__ import annotations

import itertools
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from .certificates import Authority, JwtKey
from .kafka import KafkaHarness
from .oidc import OidcServer
from .servers import CLUSTER_ID, LIGHT_JVM, Process, ServerError, _registered_brokers, _run, free_port, kafka_jars
from .waiting import wait_until

__all__ = ["LISTENERS", "MECHANISMS", "Right", "SecureKafka", "Way"]

#: The listeners, in the order of their ports.
LISTENERS = ("INTERNAL", "CONTROLLER", "PLAINTEXT", "SSL", "MTLS", "SASL_PLAINTEXT", "SASL_SSL", "EXPIRED", "FRONTED")
_PROTOCOLS = {
    "INTERNAL": "SASL_PLAINTEXT",
    "CONTROLLER": "SASL_PLAINTEXT",
    "MTLS": "SSL",
    "EXPIRED": "SSL",
    "FRONTED": "PLAINTEXT",
}
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER")
#: Users of all mechanisms, with their passwords; ``admin`` may do everything.
PASSWORDS = {name: f"secret-of-{name}" for name in ("admin", "reader", "writer")}
_TYPES = {"topic": ResourceType.TOPIC, "group": ResourceType.GROUP, "cluster": ResourceType.BROKER}
_OPERATIONS = {one.name.replace("_", ""): one for one in AclOperation}
_MODULES = "org.apache.kafka.common.security"


class Right(NamedTuple):
    """One access right, as kbr's documentation writes it; the cluster has no name."""

    operation: str
    kind: str
    name: str = ""

    def __str__(self) -> str:
        return f"{self.operation} on {self.kind} {self.name}" if self.name else f"{self.operation} on the {self.kind}"


class Way(NamedTuple):
    """A way to log in: the listener, and with SASL the mechanism."""

    listener: str
    mechanism: str = ""

    @property
    def row(self) -> str:
        """As the compatibility page has it."""
        return {"SSL": "SSL", "MTLS": "SSL, client certificate"}.get(self.listener, f"{self.listener} {self.mechanism}".strip())


class SecureKafka:
    """The cluster, its certificates and its token server."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.authority = Authority(self.folder / "ca")
        self.other_authority = Authority(self.folder / "other-ca", "other-ca")
        self.clients = {name: self.authority.sign(name) for name in ("reader", "writer")}
        self._jwt = JwtKey(self.folder)
        self._first = free_port(len(LISTENERS) + 1)
        self._process = Process("secure-kafka", self.folder)
        self.oidc = OidcServer(self._jwt, PASSWORDS)
        self._numbers = itertools.count(1)

    # -- the server -----------------------------------------------------------------------

    def start(self, deadline_s: float = 90.0) -> None:
        """Start the broker and wait until it answers."""
        java = shutil.which("java")
        if java is None:
            raise ServerError("java is missing: install a Java 17 runtime")
        classpath = f"{kafka_jars()}/*"
        data = self.folder / "data"
        properties = self.folder / "server.properties"
        jwks = self.folder / "jwks.json"
        jwks.write_bytes(self._jwt.jwks())
        properties.write_text("\n".join(self._properties(data, jwks)) + "\n")
        scram = [
            f"{mechanism}=[name={name},password={password},iterations=4096]"
            for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512")
            for name, password in PASSWORDS.items()
        ]
        _run(
            [java, *LIGHT_JVM, "-cp", classpath, "kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c", str(properties)]
            + [argument for one in scram for argument in ("--add-scram", one)]
        )
        self._process.start(
            [
                java,
                "-Xmx512m",
                *LIGHT_JVM,
                "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
                f"-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls={jwks.as_uri()}",
                f"-Dorg.apache.kafka.sasl.oauthbearer.allowed.files={jwks}",
                "-cp",
                classpath,
                "kafka.Kafka",
                str(properties),
            ],
            port=self.port("PLAINTEXT"),
        )
        until = time.monotonic() + deadline_s
        while not self._is_up():
            if self._process.running() is None:
                raise ServerError(f"the secure Kafka ended at once:\n{self._process.tail()}")
            if time.monotonic() > until:
                raise ServerError(f"the secure Kafka is not up after {deadline_s} s:\n{self._process.tail()}")
            time.sleep(0.1)
        self.admin = AdminClient(self.admin_properties)
        self.harness = SecureHarness(self)

    def stop(self) -> None:
        """Stop it."""
        self._process.stop()
        self.oidc.close()

    def port(self, listener: str) -> int:
        """A listener's port on 127.0.0.1."""
        return self._first + LISTENERS.index(listener)

    @property
    def front_port(self) -> int:
        """Where clients of FRONTED are sent to: something has to listen there."""
        return self._first + len(LISTENERS)

    def _is_up(self) -> bool:
        try:
            return _registered_brokers(self.port("PLAINTEXT")) == 1
        except OSError:
            return False

    def _properties(self, data: Path, jwks: Path) -> Iterator[str]:
        broker = self.authority.sign("broker")
        expired = self.authority.sign("expired", start="20240101000000Z", end="20240102000000Z")
        yield from (
            "process.roles=broker,controller",
            "node.id=1",
            f"controller.quorum.voters=1@127.0.0.1:{self.port('CONTROLLER')}",
            "controller.listener.names=CONTROLLER",
            "inter.broker.listener.name=INTERNAL",
            "sasl.mechanism.inter.broker.protocol=PLAIN",
            "sasl.mechanism.controller.protocol=PLAIN",
            "listeners=" + ",".join(f"{one}://127.0.0.1:{self.port(one)}" for one in LISTENERS),
            "advertised.listeners="
            + ",".join(
                f"{one}://127.0.0.1:{self.front_port if one == 'FRONTED' else self.port(one)}"
                for one in LISTENERS
                if one != "CONTROLLER"
            ),
            "listener.security.protocol.map=" + ",".join(f"{one}:{_PROTOCOLS.get(one, one)}" for one in LISTENERS),
            "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users=User:admin",
            f"log.dirs={data}",
            "auto.create.topics.enable=false",
            "offsets.topic.num.partitions=1",
            "offsets.topic.replication.factor=1",
            "transaction.state.log.num.partitions=1",
            "transaction.state.log.replication.factor=1",
            "transaction.state.log.min.isr=1",
            # a restore with the least rights makes topics of the broker's defaults, and its records are old
            "log.retention.ms=-1",
            "group.initial.rebalance.delay.ms=0",
            # tokens: a session ends with its token, and an expired one is not taken for another half minute
            "sasl.oauthbearer.jwks.endpoint.url=" + jwks.as_uri(),
            "sasl.oauthbearer.clock.skew.seconds=0",
            # by default a broker that has no such class configured looks at a token's form only, not at its signature
            f"sasl.oauthbearer.jwt.validator.class={_MODULES}.oauthbearer.BrokerJwtValidator",
            "ssl.truststore.type=PEM",
            f"ssl.truststore.location={self.authority.certificate}",
            "ssl.keystore.type=PEM",
            f"ssl.keystore.location={broker.both}",
            f"listener.name.expired.ssl.keystore.location={expired.both}",
            "listener.name.mtls.ssl.client.auth=required",
        )
        users = " ".join(f'user_{name}="{password}"' for name, password in PASSWORDS.items())
        own = f'username="admin" password="{PASSWORDS["admin"]}"'
        plain = f"{_MODULES}.plain.PlainLoginModule required {own} {users};"
        for listener in ("INTERNAL", "CONTROLLER"):
            yield f"listener.name.{listener.lower()}.sasl.enabled.mechanisms=PLAIN"
            yield f"listener.name.{listener.lower()}.plain.sasl.jaas.config={plain}"
        for listener in ("SASL_PLAINTEXT", "SASL_SSL"):
            start = f"listener.name.{listener.lower()}"
            yield f"{start}.sasl.enabled.mechanisms={','.join(MECHANISMS)}"
            yield f"{start}.plain.sasl.jaas.config={plain}"
            for mechanism in ("scram-sha-256", "scram-sha-512"):
                yield f"{start}.{mechanism}.sasl.jaas.config={_MODULES}.scram.ScramLoginModule required;"
            yield f"{start}.oauthbearer.sasl.jaas.config={_MODULES}.oauthbearer.OAuthBearerLoginModule required;"
            yield f"{start}.oauthbearer.sasl.server.callback.handler.class={_MODULES}.oauthbearer.OAuthBearerValidatorCallbackHandler"
            yield f"{start}.oauthbearer.connections.max.reauth.ms=3600000"

    # -- how to get in --------------------------------------------------------------------

    @property
    def admin_properties(self) -> dict[str, str]:
        """librdkafka's properties for who may do everything."""
        return {
            "bootstrap.servers": f"127.0.0.1:{self.port('INTERNAL')}",
            "security.protocol": "SASL_PLAINTEXT",
            "sasl.mechanism": "PLAIN",
            "sasl.username": "admin",
            "sasl.password": PASSWORDS["admin"],
            "log_level": "0",
        }

    def principal(self, way: Way, user: str) -> str:
        """Whom the broker takes a user for that comes this way."""
        if way.listener == "MTLS":
            return f"User:CN={user}"
        return f"User:{user}" if way.mechanism else "User:ANONYMOUS"

    def cluster_config(self, way: Way, user: str, **changes: object) -> dict[str, object]:
        """kbr's ``source`` or ``target`` for a user that comes this way; ``changes`` to its security, None takes one away."""
        security: dict[str, object] = {"security_protocol": _PROTOCOLS.get(way.listener, way.listener)}
        if security["security_protocol"] in {"SSL", "SASL_SSL"}:
            security["ssl_ca_location"] = str(self.authority.certificate)
        if way.listener == "MTLS":
            pair = self.clients[user]
            security.update(ssl_certificate_location=str(pair.certificate), ssl_key_location=str(pair.key))
        if way.mechanism:
            security["sasl_mechanism"] = way.mechanism
        if way.mechanism == "OAUTHBEARER":
            security.update(
                oauth_token_endpoint_url=self.oidc.url, oauth_client_id=user, oauth_client_secret=PASSWORDS[user]
            )
        elif way.mechanism:
            security.update(username=user, password=PASSWORDS[user])
        security.update(changes)
        return {
            "bootstrap_servers": [f"127.0.0.1:{self.port(way.listener)}"],
            "security": {name: value for name, value in security.items() if value is not None},
        }

    def name(self, prefix: str) -> str:
        """A name nobody else uses."""
        return f"{prefix}-{next(self._numbers)}"

    # -- rights ---------------------------------------------------------------------------

    @contextmanager
    def rights(self, principal: str, rights: Iterable[Right]) -> Iterator[None]:
        """Exactly these rights for a principal, as long as it lasts; the broker knows of them when it begins."""
        self._set(principal, list(rights))
        try:
            yield
        finally:
            self._set(principal, [])

    def _set(self, principal: str, rights: list[Right]) -> None:
        wanted = [_binding(principal, one) for one in rights]
        everything = AclBindingFilter(
            ResourceType.ANY, None, ResourcePatternType.ANY, principal, None, AclOperation.ANY, AclPermissionType.ANY
        )
        for future in self.admin.delete_acls([everything]).values():
            future.result(30)
        if wanted:
            for future in self.admin.create_acls(wanted).values():
                future.result(30)

        def is_known() -> bool:
            return set(map(str, self.admin.describe_acls(everything).result(30))) == set(map(str, wanted))

        wait_until(is_known, deadline_s=30, what=f"the rights of {principal}")


def _binding(principal: str, right: Right) -> AclBinding:
    return AclBinding(
        _TYPES[right.kind],
        right.name or "kafka-cluster",
        ResourcePatternType.LITERAL,
        principal,
        "*",
        _OPERATIONS[right.operation.upper()],
        AclPermissionType.ALLOW,
    )


class SecureHarness(KafkaHarness):
    """The cluster as tests of records see it, as its administrator."""

    def __init__(self, secure: SecureKafka) -> None:
        self.properties: Mapping[str, str] = secure.admin_properties
        self.bootstrap = self.properties["bootstrap.servers"]
        self.proxied_bootstrap = ""
        self.admin = secure.admin
