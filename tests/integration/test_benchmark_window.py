"""`python -m benchmarks window` on a real Kafka and a real S3 server, small: what it counts, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import window
from benchmarks.window import measure_window
from tests.support.kafka import KafkaHarness
from tests.support.servers import REPOSITORY

MIB = 16


@pytest.mark.timeout(300)
def test_windows_are_counted_by_what_the_server_sends_and_proved_by_their_records(kafka: KafkaHarness, tmp_path: Path) -> None:
    output = tmp_path / "window.json"
    done = subprocess.run(
        [
            sys.executable, "-m", "benchmarks", "window", "--mib", str(MIB), "--bootstrap-servers", kafka.bootstrap,
            "--directory", str(tmp_path), "--output", str(output),
        ],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    document = json.loads(output.read_text())
    assert document["benchmark"] == "window"
    assert [one["layout"] for one in document["results"]] == list(window.LAYOUTS)
    for one in document["results"]:
        assert 0.7 * (MIB << 20) < one["stored_bytes"] < 1.5 * (MIB << 20)
        block_bytes = one["stored_bytes"] / one["blocks"]
        assert [part["window"] for part in one["windows"]] == list(window.PLACES)
        for part in one["windows"]:
            assert part["records"] > 0
            for reader in ("cat", "restore"):
                # a block of each partition at least, and a small part of the whole
                assert one["partitions"] * block_bytes * 0.8 < part[f"{reader}_bytes"] < one["stored_bytes"] / 2
    assert "1 % at the middle of" in done.stdout


@pytest.mark.timeout(200)
def test_a_reader_that_misses_records_is_no_result(
    kafka: KafkaHarness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = window._cat
    monkeypatch.setattr(window, "_cat", lambda place, flags: real(place, flags) - 1)
    with pytest.raises(SystemExit, match="wrong: cat gave"):
        measure_window(tmp_path, kafka.bootstrap, stored_bytes=4 << 20, late_each=0, prefix=kafka.topic_name("bench"))
