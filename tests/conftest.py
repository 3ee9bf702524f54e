"""What all tests share: real servers, started when first asked for and stopped at the end.

A missing server is a failure, never a skip; a skipped test fails the run.
"""

from __future__ import annotations

import gc
import importlib.machinery
import itertools
import signal
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, settings

import kbr_codec
from kbr import secrecy
from kbr_codec import _block
from tests.support.kafka import KafkaHarness
from tests.support.proxy import FaultProxy
from tests.support.s3_proxy import S3Proxy
from tests.support.s3_servers import CephServer, SeaweedServer
from tests.support.secure_kafka import SecureKafka
from tests.support.servers import KafkaServer, S3Server, free_port

pytest_plugins = [
    "tests.support.fault_table",
    "tests.support.compatibility",
    "tests.support.compatibility_table",
    "tests.support.other_fixtures",
]

settings.register_profile(
    "kbr", max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("long", max_examples=3000, deadline=None, suppress_health_check=list(HealthCheck))
settings.load_profile("kbr")

#: The fixtures that start a real server.
SERVERS = frozenset({"kafka", "three_kafka", "secure_kafka", "s3", "ceph", "seaweedfs", "sftp", "ftp", "azure", "gcs"})

_Report = TypeVar("_Report", pytest.TestReport, pytest.CollectReport)
_buckets = itertools.count(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--long``: the tests marked ``long`` as well."""
    parser.addoption("--long", action="store_true", help="run the tests that take minutes, too")


def pytest_configure() -> None:
    """A run that is told to end (a CI job beyond its time) stops its servers, as after Ctrl-C."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Thousands of tests and all modules stay until the end: no collection needs to look through them."""
    gc.collect()
    gc.freeze()


def pytest_sessionstart(session: pytest.Session) -> None:
    """The compiled codec is the one under test."""
    suffixes = tuple(importlib.machinery.EXTENSION_SUFFIXES)
    if not _block.__file__.endswith(suffixes) or kbr_codec.encode_block is not _block.encode_block:
        session.shouldfail = "the compiled codec is not the one that is loaded"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what needs a server, so that ``-m "not servers"`` leaves it out; leave out what is long unless asked for."""
    for item in items:
        if SERVERS.intersection(getattr(item, "fixturenames", ())):
            item.add_marker("servers")
    if not config.getoption("--long"):
        long = [item for item in items if item.get_closest_marker("long")]
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A skipped test, or one that is expected to fail, is a failure: it proves nothing."""
    return _without_skip((yield))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for a whole module that skips itself."""
    return _without_skip((yield))


def _without_skip(report: _Report) -> _Report:
    if report.skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{report.nodeid} was skipped, which fails the run: {reason}"
        report.__dict__.pop("wasxfail", None)
    return report


@pytest.fixture(autouse=True)
def _no_secrets_of_other_tests() -> Iterator[None]:
    """What one test calls a secret is another one's word."""
    yield
    secrecy.forget()


class S3Place:
    """A real S3 server as tests see it."""

    def __init__(self, server: S3Server | CephServer | SeaweedServer) -> None:
        self.server = server
        self.endpoint_url = server.endpoint_url
        self.port = server.port
        self.access_key = server.access_key
        self.secret_key = server.secret_key

    def make_bucket(self) -> str:
        """A bucket nobody else uses."""
        name = f"bucket-{next(_buckets)}"
        self.server.make_bucket(name)
        return name

    def storage_url(self, bucket: str, prefix: str = "") -> str:
        """What kbr calls a place in one of its buckets."""
        return f"s3://{bucket}/{prefix}".rstrip("/")

    def folder(self, bucket: str) -> Path:
        """Where versitygw keeps a bucket's objects, as files."""
        return self.server.folder / "buckets" / bucket

    @property
    def env(self) -> dict[str, str]:
        """KBR_ variables that lead to it."""
        return self.env_through(self.endpoint_url)

    def env_through(self, endpoint_url: str) -> dict[str, str]:
        """KBR_ variables that lead to it by another address, a proxy's."""
        return {
            "KBR_STORAGE_ENDPOINT": endpoint_url,
            "KBR_STORAGE_ACCESS_KEY": self.access_key,
            "KBR_STORAGE_SECRET_KEY": self.secret_key,
            "KBR_STORAGE_REGION": "us-east-1",
        }


@pytest.fixture(scope="session")
def servers_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the servers keep their data."""
    return tmp_path_factory.mktemp("servers")


@pytest.fixture(scope="session")
def kafka(servers_folder: Path) -> Iterator[KafkaHarness]:
    """A real Kafka, one broker."""
    server = KafkaServer(servers_folder / "kafka", brokers=1, port=free_port(4), proxied=True, light=True)
    try:
        server.start()
        yield KafkaHarness(server)
    finally:
        server.stop()


@pytest.fixture
def network(kafka: KafkaHarness) -> Iterator[FaultProxy]:
    """The network between ``kafka`` and those who use ``kafka.proxied_bootstrap``."""
    with FaultProxy(kafka.server.proxy_routes) as proxy:
        yield proxy


# Not for a session, as the others: few files use these two, and each idle broker takes a tenth of a core.
@pytest.fixture(scope="module")
def three_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaHarness]:
    """A real Kafka, three brokers."""
    server = KafkaServer(tmp_path_factory.mktemp("kafka3"), brokers=3, port=free_port(12), proxied=True, light=True)
    try:
        server.start()
        yield KafkaHarness(server)
    finally:
        server.stop()


@pytest.fixture(scope="module")
def secure_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureKafka]:
    """A real Kafka with a listener for every way to log in, and with access rights."""
    server = SecureKafka(tmp_path_factory.mktemp("secure-kafka"))
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture
def three_network(three_kafka: KafkaHarness) -> Iterator[FaultProxy]:
    """The same for ``three_kafka``: one network for all of its brokers."""
    with FaultProxy(three_kafka.server.proxy_routes) as proxy:
        yield proxy


@pytest.fixture
def s3_network(s3: S3Place) -> Iterator[S3Proxy]:
    """Between ``s3`` and those who use its ``endpoint_url``."""
    with S3Proxy(s3.port) as proxy:
        yield proxy


@pytest.fixture(scope="session")
def s3(servers_folder: Path) -> Iterator[S3Place]:
    """A real S3 server: versitygw."""
    server = S3Server(servers_folder / "s3", port=free_port())
    try:
        server.start()
        yield S3Place(server)
    finally:
        server.stop()


@pytest.fixture(scope="session")
def ceph(servers_folder: Path) -> Iterator[S3Place]:
    """A real S3 server: Ceph's RGW."""
    server = CephServer(servers_folder / "ceph", port=free_port(CephServer.PORTS))
    try:
        server.start()
        yield S3Place(server)
    finally:
        server.kill()


@pytest.fixture(scope="session")
def seaweedfs(servers_folder: Path) -> Iterator[S3Place]:
    """A real S3 server: SeaweedFS."""
    server = SeaweedServer(servers_folder / "seaweedfs", port=free_port(SeaweedServer.PORTS))
    try:
        server.start()
        yield S3Place(server)
    finally:
        server.stop()
