"""`python -m benchmarks run` on a real Kafka, small: every engine's figures, a peer's among them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.kafka import KafkaHarness
from tests.support.servers import REPOSITORY

SCALE = "0.002"


@pytest.mark.timeout(300)
def test_a_run_measures_kbr_and_a_peer_and_proves_what_was_restored(kafka: KafkaHarness, tmp_path: Path) -> None:
    output = tmp_path / "result.json"
    peer = (
        f"copy={sys.executable} benchmarks/peers/confluent_json.py backup {{bootstrap_servers}} {{topic}} {{directory}}"
    )
    back = f"copy:restore={sys.executable} benchmarks/peers/confluent_json.py restore {{bootstrap_servers}} {{target}} {{directory}}"
    done = subprocess.run(
        [
            sys.executable, "-m", "benchmarks", "run", "k1", "window", "flights",
            "--keep", str(tmp_path / "kept"), "--scale", SCALE, "--rounds", "2", "--peer", peer, "--peer", back, "--peer", "broken=exit 7",
            "--bootstrap-servers", kafka.bootstrap, "--output", str(output), "--directory", str(tmp_path),
        ],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr[-3000:]  # one engine fails, and is told of at the end
    assert "failed: k1 (scale 0.002): broken: in 2 of 2 rounds" in done.stdout
    document = json.loads(output.read_text())
    assert document["machine"]["cores"] >= 1
    assert document["versions"]["kbr"]
    by_name = {one["scenario"]: one for one in document["results"]}
    assert set(by_name) == {"k1", "window", "flights"}
    for result in by_name.values():
        assert result["checked"]["kbr"] == []
        assert len(result["rounds"]) == 2
        for one in result["rounds"]:
            assert one["floor"]["cpu_s"] > 0
            assert one["kbr"]["backup"]["stored_bytes"] > 0
            assert one["kbr"]["backup"]["peak_pss_bytes"] > 0
            assert one["kbr"]["restore"]["cpu_s"] > 0
            assert "waited_s" in one["kbr"]["restore"]
            assert one["kbr"]["restore"]["records"] == result["restored"]["records"]
    assert by_name["k1"]["checked"]["copy"] == []  # the plain script is exact, too
    assert by_name["window"]["restored"]["records"] == by_name["window"]["data"]["records"] // 100
    kept = {path.name for path in (tmp_path / "kept").iterdir()}
    assert {"k1-kbr-1", "k1-copy-1", "flights-kbr-1"} <= kept
    assert "k1-kbr-0" not in kept
    assert "ended with 7" in by_name["k1"]["rounds"][0]["broken"]["failed"]
    assert "| k1 (scale 0.002) | copy |" in done.stdout
    assert "| k1 (scale 0.002) | broken | failed" in done.stdout
    assert not [name for name in kafka.admin.list_topics(timeout=10).topics if name.startswith("bench-")]
