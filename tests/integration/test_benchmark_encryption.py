"""`python -m benchmarks encryption` on a real Kafka, small: both kinds in turns, and no result of what is not encrypted."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import encryption
from benchmarks.data import DataSpec
from benchmarks.encryption import measure_encryption
from tests.support.kafka import KafkaHarness

SPEC = DataSpec(records=500, value_bytes=1024)


def measured(kafka: KafkaHarness, folder: Path):  # type: ignore[no-untyped-def]
    return measure_encryption(
        folder, kafka.bootstrap, spec=SPEC, rounds=1, compression="none", topic=kafka.topic_name("bench")
    )


@pytest.mark.timeout(200)
def test_both_backups_are_measured_and_the_encrypted_one_is_larger_by_its_envelopes(
    kafka: KafkaHarness, tmp_path: Path
) -> None:
    found = measured(kafka, tmp_path)
    assert found["records"] == SPEC.records
    assert [set(one) for one in found["rounds"]] == [set(encryption.KINDS)]
    assert all(found[what][kind] > 0 for what in ("cpu_s", "wall_s") for kind in encryption.KINDS)
    stored = found["stored_bytes"]
    assert stored["plain"] > 500 * 1024
    assert 0 < stored["encrypted"] - stored["plain"] < 5000


@pytest.mark.timeout(200)
def test_a_backup_that_was_not_encrypted_is_no_result(
    kafka: KafkaHarness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = encryption._kbr
    monkeypatch.setattr(encryption, "_kbr", lambda words, environment, folder: real(words, {}, folder))
    with pytest.raises(SystemExit, match="wrong: 500 records, encrypted: False"):
        measured(kafka, tmp_path)
