"""A configuration that is read again: what is followed, what is said, and what stays."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from kbr.app.reread import FIXED_OPTIONS, FOLLOWED_KEYS, Reread
from kbr.backup.options import BackupOptions
from kbr.config import Config, load_config
from kbr.config.keys import all_keys
from kbr.runtime.pacing import RateLimit

HEAD = "backup_id: b\nsource: {bootstrap_servers: ['h:1'], topics: {include: [%s]}, security: {%s}}\nstorage: {url: /tmp/x}\n"


class _Bench:
    def __init__(self, folder: Path) -> None:
        self.file = folder / "kbr.yaml"
        self.woken = 0
        self.rates: list[RateLimit] = []
        self.write("a", "")
        self.reread = Reread(self.load(), self.load, wake=self._wake, change_rate=self.rates.append)

    def write(self, topics: str, backup: str, security: str = "") -> None:
        self.file.write_text(HEAD % (topics, security) + f"backup: {{continuous: true, {backup}}}\n")

    def load(self) -> Config:
        return load_config(self.file, environ={}, mode="backup")

    def _wake(self) -> None:
        self.woken += 1

    def read(self) -> BackupOptions | None:
        self.reread.ask()
        return self.reread.take()


@pytest.fixture
def bench(tmp_path: Path) -> _Bench:
    return _Bench(tmp_path)


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level("INFO", logger="kbr.backup")

    def take() -> list[str]:
        found = [record.getMessage() for record in caplog.records]
        caplog.clear()
        return found

    return take


def test_every_option_is_followed_by_a_key_of_the_file_or_stays() -> None:
    names = {one.name for one in dataclasses.fields(BackupOptions)}
    assert names == FOLLOWED_KEYS.keys() | set(FIXED_OPTIONS)
    assert {key.path for key in all_keys()} >= set(FOLLOWED_KEYS.values())


def test_nothing_is_read_that_nobody_has_asked_for(bench: _Bench) -> None:
    bench.file.unlink()
    assert bench.reread.take() is None
    assert bench.woken == 0


def test_what_has_changed_is_told_by_the_files_own_keys_and_values(
    bench: _Bench, lines: Callable[[], list[str]]
) -> None:
    bench.write("a, 'b-*'", "rate_limit: 1MB/s, compression_level: 9, checkpoint_interval_ms: 500")
    options = bench.read()
    assert options is not None
    assert lines() == []  # not before it holds
    bench.reread.hold(options)
    assert lines() == [
        "configuration read again: source.topics.include: [a] -> [a, b-*]; backup.compression_level: not set -> 9; "
        "backup.rate_limit: not set -> 1000000; backup.checkpoint_interval_ms: 30000 -> 500"
    ]
    assert bench.rates == [RateLimit(1_000_000, 0)]
    again = bench.read()
    assert again == options
    bench.reread.hold(options)
    assert lines() == ["configuration read again: nothing has changed that is followed"]


def test_what_can_not_change_stays_and_is_told_without_values(bench: _Bench, lines: Callable[[], list[str]]) -> None:
    bench.write(
        "a", "compression: lz4, compression_level: 12, segment_max_bytes: 2MiB",
        "security_protocol: SASL_SSL, sasl_mechanism: PLAIN, username: u, password: hush-hush",
    )  # fmt: skip
    options = bench.read()
    assert options is not None
    assert (options.compression.value, options.compression_level, options.segment_max_bytes) == ("zstd", 3, 2 * 2**20)
    (line,) = lines()
    assert "backup.compression" in line
    assert "source.security.password" in line
    assert "hush" not in line
    assert "Compression." not in line


@pytest.mark.parametrize(
    ("section", "key"),
    [
        ("encryption: {key: hush-hush-hush}", "encryption.key"),
        ("signing: {accept_unsigned: true, key: /etc/kbr/signing.pem}", "signing.key"),
        ("limits: {max_block_bytes: 1MiB}", "limits.max_block_bytes"),
        ("logging: {format: json}", "logging.format"),
    ],
)
def test_keys_and_limits_that_are_new_in_the_file_do_not_hold_and_are_told(
    bench: _Bench, lines: Callable[[], list[str]], section: str, key: str
) -> None:
    """Whoever adds a key for encryption to a run may think that it encrypts from then on."""
    bench.file.write_text(bench.file.read_text() + section + "\n")
    assert bench.read() is not None
    (line,) = lines()
    assert "does not follow a change of" in line
    assert key in line
    assert "hush" not in line


@pytest.mark.parametrize("text", ["nonsense: [", "backup: {rate_limit: never}\nbackup_id: ' '\n"])
def test_a_file_that_is_wrong_is_one_line_and_everything_stays(
    bench: _Bench, lines: Callable[[], list[str]], text: str
) -> None:
    bench.file.write_text(text)
    assert bench.read() is None
    (line,) = lines()
    assert line.startswith("the configuration can't be read again, everything stays as it was: ")
    assert "\n" not in line
    bench.file.unlink()
    assert bench.read() is None
    assert "can't read the configuration file" in lines()[0]


def test_values_are_shown_in_a_line_that_is_not_endless(bench: _Bench, lines: Callable[[], list[str]]) -> None:
    bench.write(", ".join(f"topic-{number}" for number in range(5000)), "")
    options = bench.read()
    assert options is not None
    bench.reread.hold(options)
    assert len(lines()[0]) < 500
