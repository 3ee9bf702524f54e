"""The harness itself: it counts every process, forms ratios within a round, and makes the same data everywhere."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from benchmarks.__main__ import main as benchmarks_main
from benchmarks.checkpoint import measure_checkpoints
from benchmarks.data import DataSpec, columns_of, pack_block
from benchmarks.digest import Columns, Digester
from benchmarks.engines import ENGINES, Job, Place, parse_peer
from benchmarks.flame import fold, render
from benchmarks.index import measure_index
from benchmarks.measure import Command, MeasureError, measure
from benchmarks.offsets import measure_offsets
from benchmarks.page import rendered, results_of
from benchmarks.plots import plot_results
from benchmarks.results import failures, figures_of, markdown, targets
from benchmarks.scenarios import SCENARIOS, chosen
from benchmarks.simulate import least_makespan, made_sizes, makespan
from benchmarks.throttle import Sample, figures
from kbr.config.model import BackupConfig, RestoreConfig
from kbr.format.compression import DEFAULT_ZSTD_LEVEL
from kbr.format.documents import load_manifest
from kbr_codec import decode_block
from tests.support.servers import REPOSITORY


def lives(pid: int) -> bool:
    """Whether it runs; a zombie doesn't."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def eventually(holds: Callable[[], bool], seconds: float = 30.0) -> None:
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, f"not within {seconds:.0f} s"
        time.sleep(0.02)


BURN = "import time\nend = time.process_time() + 0.4\nwhile time.process_time() < end: pass\n"


# -- measuring ------------------------------------------------------------------------------------


def test_a_grandchild_and_an_orphan_count(tmp_path: Path) -> None:
    """0.4 s of the command, of its child, and of a process whose parent has ended: 1.2 s in all."""
    orphan = f"import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', {BURN!r}])\n"
    code = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {orphan!r}])\nsubprocess.run([sys.executable, '-c', {BURN!r}])\n{BURN}"
    found = measure(Command(argv=[sys.executable, "-c", code]), folder=tmp_path, deadline_s=60)
    assert found.cpu_s >= 1.2
    assert found.wall_s >= 0.8
    assert found.peak_pss_bytes > 0


def test_the_memory_of_all_processes_is_added_up(tmp_path: Path) -> None:
    hold = "import time; held = bytearray(60 << 20); time.sleep(1)"
    code = f"import subprocess, sys, time; p = subprocess.Popen([sys.executable, '-c', {hold!r}]); {hold}; p.wait()"
    found = measure(Command(argv=[sys.executable, "-c", code]), folder=tmp_path, deadline_s=60)
    assert found.peak_pss_bytes > 120 << 20


@pytest.mark.parametrize(
    ("code", "what"), [("raise SystemExit(3)", "ended with 3"), ("import time; time.sleep(60)", "did not end")]
)
def test_a_command_that_fails_or_hangs_is_an_error_that_names_it(tmp_path: Path, code: str, what: str) -> None:
    with pytest.raises(MeasureError, match=what):
        measure(Command(argv=[sys.executable, "-c", code]), folder=tmp_path, deadline_s=1)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_what_is_measured_ends_with_the_one_who_measures(tmp_path: Path, how: signal.Signals) -> None:
    """The command, and its child in a session of its own."""
    ready = tmp_path / "pids"
    command = (
        "import os, pathlib, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True)\n"
        f"pathlib.Path({str(ready)!r} + '.new').write_text(f'{{os.getpid()}} {{child.pid}}')\n"
        f"os.rename({str(ready)!r} + '.new', {str(ready)!r})\n"
        "time.sleep(600)\n"
    )
    harness = (
        "import pathlib, signal, sys\n"
        "from benchmarks.measure import Command, measure\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored by children of a shell's background jobs
        f"measure(Command(argv=[sys.executable, '-c', {command!r}]), folder=pathlib.Path({str(tmp_path)!r}), deadline_s=600)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", harness], cwd=REPOSITORY, stderr=subprocess.DEVNULL)
    try:
        eventually(ready.exists)
        pids = [int(word) for word in ready.read_text().split()]
        assert all(map(lives, pids))
        process.send_signal(how)
        assert process.wait(30) != 0
        eventually(lambda: not any(map(lives, pids)))
    finally:
        process.kill()
        process.wait()


# -- data -----------------------------------------------------------------------------------------


def _digest(spec: DataSpec) -> object:
    digester = Digester(spec.partitions)
    for partition, columns in columns_of(spec):
        digester.add(partition, columns)
    return digester.result()


@pytest.mark.parametrize(
    "spec", [DataSpec(records=5000, value_bytes=100, partitions=7, headers=3), DataSpec(records=9, value_bytes=70_000)]
)
def test_the_data_is_the_same_each_time_and_as_much_as_it_says(spec: DataSpec) -> None:
    first = _digest(spec)
    assert first == _digest(spec)
    assert first.records == spec.records  # type: ignore[attr-defined]
    other = DataSpec(
        records=spec.records, value_bytes=spec.value_bytes, partitions=spec.partitions, headers=spec.headers, seed=2
    )
    assert _digest(other) != first


def test_a_made_block_is_one_of_the_format() -> None:
    ((_, columns),) = islice(columns_of(DataSpec(records=50, value_bytes=20, headers=2)), 1)
    records = decode_block(pack_block(columns, 7))
    assert [record.offset for record in records] == list(range(7, 57))
    assert [record.value for record in records] == list(columns.values)
    assert [list(record.headers) for record in records] == [list(one) for one in columns.headers or ()]


def test_a_digest_names_what_differs() -> None:
    def one(**changes: object) -> object:
        columns = {
            "keys": [b"a", None],
            "values": [b"", b"x"],
            "headers": None,
            "timestamps": [1, 2],
            "timestamp_types": [1, 1],
        }
        digester = Digester(1)
        digester.add(0, Columns(**{**columns, **changes}))  # type: ignore[arg-type]
        return digester.result()

    same = one()
    assert same.differences(one()) == []  # type: ignore[attr-defined]
    assert same.differences(one(keys=[b"a", b""])) == ["keys"]  # type: ignore[attr-defined]
    assert same.differences(one(values=[b"x", b""])) == ["values"]  # type: ignore[attr-defined]
    assert same.differences(one(timestamps=[2, 1])) == ["timestamps"]  # type: ignore[attr-defined]
    assert same.differences(one(headers=[[(b"h", None)], []])) == ["headers"]  # type: ignore[attr-defined]


# -- engines --------------------------------------------------------------------------------------


def _job(directory: Path) -> Job:
    return Job(
        scenario=SCENARIOS["k4"],
        servers="h:1",
        topic="t",
        target="u",
        name="n",
        directory=directory,
        place=Place(url="p"),
    )


def test_a_peers_placeholders_are_filled_in(tmp_path: Path) -> None:
    (peer,) = parse_peer(
        [
            "x=run {bootstrap_servers} {topic} {directory} {records} {{}}",
            "x:restore=back {target} {partitions} {scenario}",
        ]
    )
    assert peer.backup(_job(tmp_path / "d")).argv == f"run h:1 t {tmp_path / 'd'} 1000000 {{}}"
    assert peer.restore is not None
    assert peer.restore(_job(tmp_path / "d")).argv == "back u 4 k4"
    assert not peer.exact


@pytest.mark.parametrize("name", ["kcat-zstd", "confluent-json", "connect-file"])
def test_a_shipped_engine_takes_a_folder_with_spaces_for_one_word(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "two words; exit"
    engine = ENGINES[name]
    assert engine.restore is not None
    for command in (engine.backup(_job(folder)), engine.restore(_job(folder))):
        argv = command.argv
        assert not isinstance(argv, str)
        words = shlex.split(argv[2]) if argv[0] == "bash" else argv
        assert [word for word in words if word.rstrip(";").startswith(str(folder))]


@pytest.mark.parametrize("text", ["x", "=y", "x=", "x:verify=y", "kbr=y", "x={nothing}", "x={", "x:restore=y"])
def test_a_peer_that_cannot_be_meant_is_refused(text: str) -> None:
    with pytest.raises(SystemExit, match="--peer"):
        parse_peer([text])


def test_an_unknown_scenario_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(SystemExit, match="k1, k4"):
        chosen(["k5"], 1.0)


@pytest.mark.parametrize(
    ("name", "stored", "sent"),
    [
        ("k1", ("zstd", 3), "lz4"),
        ("zstd-9", ("zstd", 9), "lz4"),
        ("lz4", ("lz4", 0), "lz4"),
        ("none", ("none", 0), "lz4"),
        ("wire-zstd", ("zstd", 3), "zstd"),
    ],
)
def test_the_floor_uses_the_codecs_that_kbr_is_told_to(name: str, stored: tuple[str, int], sent: str) -> None:
    assert SCENARIOS[name].stored_with == stored
    assert SCENARIOS[name].sent_with == sent


def test_the_floors_codecs_are_kbrs_defaults() -> None:
    assert SCENARIOS["k1"].stored_with == (BackupConfig().compression.value, DEFAULT_ZSTD_LEVEL)
    assert SCENARIOS["k1"].sent_with == RestoreConfig().compression


def test_kbr_gets_what_a_scenario_asks_for(tmp_path: Path) -> None:
    job = replace(_job(tmp_path), scenario=SCENARIOS["window"])
    kbr = ENGINES["kbr"]
    assert kbr.restore is not None
    words = kbr.restore(job).argv
    assert "--from-timestamp" in words
    assert "t=u" in words


# -- results --------------------------------------------------------------------------------------


def _result() -> dict[str, object]:
    def job(wall: float, cpu: float) -> dict[str, object]:
        return {"wall_s": wall, "cpu_s": cpu, "peak_pss_bytes": 100e6, "peak_rss_bytes": 120e6, "stored_bytes": 5e6}

    rounds = [
        {
            "floor": {"cpu_s": floor, "produce_wall_s": 2.0, "produce_cpu_s": 1.0, "plain_wall_s": 1.0},
            "kbr": {"backup": job(wall, 2.0), "restore": job(1.0, 1.0)},
            "other": {"failed": "it fell over\nsomewhere"},
        }
        for floor, wall in ((1.0, 1.0), (2.0, 1.0), (4.0, 8.0))
    ]
    return {
        "scenario": "k1",
        "engines": ["kbr", "other"],
        "rounds": rounds,
        "checked": {"kbr": []},
        "data": {"record_bytes": 1e9},
    }


def test_ratios_are_formed_within_a_round() -> None:
    found = figures_of(_result(), "kbr", "backup")
    assert found["wall_ratio"].median == 1.0  # of 1.0, 0.5 and 2.0; the medians' ratio would be 0.5
    assert (found["wall_s"].median, found["wall_s"].least, found["wall_s"].most) == (1.0, 1.0, 8.0)
    assert found["mb_per_s"].median == 1000
    assert found["plain_ratio"].median == 1.0
    assert "plain_ratio" not in figures_of(_result(), "kbr", "restore")


def test_a_windows_restore_counts_what_it_restored() -> None:
    result = _result() | {"restored": {"record_bytes": 1e7, "records": 10}}
    assert figures_of(result, "kbr", "backup")["mb_per_s"].median == 1000
    assert figures_of(result, "kbr", "restore")["mb_per_s"].median == 10


def test_a_round_that_lost_records_is_told_though_the_compared_one_was_identical() -> None:
    result: dict[str, Any] = _result() | {"restored": {"record_bytes": 1e9, "records": 10}}
    for number, one in enumerate(result["rounds"]):
        one["kbr"]["restore"]["records"] = 9 if number == 2 else 10
    assert "differ: records (9 of 10) in some rounds" in markdown([result])


def test_targets_between_two_scenarios_need_both() -> None:
    small, large = _result(), _result() | {"scenario": "ten"}
    assert "ten" not in targets([large])
    assert "| ten / k1 | backup | peak_pss_mb | ≤ 1.10 | 1.00 | yes |" in targets([small, large])
    slow, fast = _result() | {"scenario": "workers-1"}, _result() | {"scenario": "workers-2"}
    assert "| workers-1 / workers-2 | backup | wall_s | ≥ 1.70 | 1.00 | no |" in targets([slow, fast])


def test_the_tables_say_what_failed_and_what_was_identical() -> None:
    text = markdown([_result()])
    assert "| k1 | kbr | 1.00 (1.00-8.00) | 2.00 |" in text
    assert "failed: it fell over" in text
    assert "identical" in text
    assert "| k1 | backup | wall_ratio | ≤ 0.7 | 1.00 (0.50-2.00) | no |" in targets([_result()])
    assert "| k1 | restore | wall_ratio | ≤ 1.25 | 0.50 | yes |" in targets([_result()])


def test_rates_are_measured_over_any_window() -> None:
    steady = [Sample(at / 10, at * 10.0, 100.0) for at in range(150)]
    (one,) = figures(steady, [100.0])
    assert one["ratio"] == pytest.approx(1)
    assert one["ten_seconds_max"] == pytest.approx(1)
    burst = [Sample(one.at_s, one.bytes + (50 if one.at_s >= 7 else 0), 100.0) for one in steady]
    (one,) = figures(burst, [100.0])
    assert one["second_max"] == pytest.approx(1.5)
    assert one["ten_seconds_max"] == pytest.approx(1.05, rel=0.01)


@pytest.mark.parametrize("kind", ["equal", "lognormal", "zipf"])
@pytest.mark.parametrize("count", [200, 2000, 20_000])
def test_64_workers_come_within_5_percent_of_the_ideal(kind: str, count: int) -> None:
    for misjudged in (0.0, 0.5):
        taken, ideal = makespan(made_sizes(kind, count), 64, leaders=6, misjudged=misjudged)
        assert taken <= 1.05 * ideal


def test_what_no_schedule_can_be_below_knows_that_partitions_are_not_divided() -> None:
    assert least_makespan([5] * 200, 64) == 20  # four rounds
    assert least_makespan([9, 1, 1], 2) == 9
    assert least_makespan([3, 3, 2, 2, 2], 2) == 6  # 3 + 3 and 2 + 2 + 2
    assert least_makespan([4, 4, 4, 1], 2) == 8


# -- the page -------------------------------------------------------------------------------------


def test_every_table_of_the_performance_page_is_what_its_results_say() -> None:
    page = (REPOSITORY / "docs/performance.md").read_text()
    assert page.count("<!-- end -->") >= 5
    assert rendered(page) == page


def test_a_figure_of_the_page_that_was_changed_by_hand_is_found(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(json.dumps({"benchmark": "run", "results": [_result()]}))
    page = rendered("# a\n<!-- targets r.json -->\n<!-- end -->\nmore\n", tmp_path)
    assert "| k1 | restore | wall_ratio | ≤ 1.25 | 0.50 | yes |" in page
    assert rendered(page, tmp_path) == page
    assert rendered(page.replace("0.50", "0.40"), tmp_path) == page
    for wrong in ("<!-- graph r.json -->\n<!-- end -->", "<!-- table none.json -->\n<!-- end -->"):
        with pytest.raises(SystemExit):
            rendered(wrong, tmp_path)


def test_the_tally_of_targets_comes_from_the_results() -> None:
    assert targets([_result()]).endswith(f"\n{targets([_result()]).count('| yes |')} of {targets([_result()]).count('≤')} targets are met.")
    small, large = _result(), _result() | {"scenario": "ten"}
    assert targets([small, large]) != targets([small])


def test_a_part_of_the_records_is_marked_and_meets_no_target(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(json.dumps({"benchmark": "run", "scale": 0.01, "results": [_result()]}))
    results = results_of([tmp_path / "r.json"])
    assert "| k1 (scale 0.01) | kbr |" in markdown(results)
    text = targets(results)
    assert "| k1 (scale 0.01) | restore | wall_ratio | ≤ 1.25 | 0.50 | scaled down |" in text
    assert "yes" not in text
    assert text.endswith("0 of 0 targets are met.")
    plot_results(results, tmp_path)
    assert "k1 (scale 0.01)" in (tmp_path / "figures-backup.svg").read_text()


def test_engines_that_failed_are_told_with_how_often_and_why() -> None:
    failed = [one for one in failures([_result()]) if "it fell over" in one]
    assert len(failed) == 1
    assert failed[0].startswith("k1: ")
    assert "rounds: it fell over" in failed[0]


@pytest.mark.parametrize("verb", ["table", "targets", "plot"])
@pytest.mark.parametrize(
    ("content", "what"),
    [
        (None, "can't be read: No such file or directory"),
        (b"# a page", "is no JSON"),
        (b"\xff\xfe", "is no JSON"),
        (b"[]", "is no result of a benchmark"),
        (b"{}", "is no result of a benchmark"),
        (b'{"benchmark": "simulate"}', "is no result of `benchmarks run`"),
    ],
)
def test_a_file_that_is_no_result_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str, content: bytes | None, what: str
) -> None:
    path = tmp_path / "r.json"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setattr(sys, "argv", ["benchmarks", verb, str(path)])
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit) as caught:
        benchmarks_main()
    assert what in str(caught.value)


# -- the command line -----------------------------------------------------------------------------


@pytest.mark.parametrize("verb", [[], ["run"], ["page"], ["throttle"], ["simulate"], ["window"], ["encryption"], ["flame"]])
def test_help_is_printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], verb: list[str]) -> None:
    """argparse formats with %: a percent sign of a text has to be doubled, and only --help shows that."""
    monkeypatch.setattr(sys, "argv", ["benchmarks", *verb, "--help"])
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit) as caught:
        benchmarks_main()
    assert caught.value.code == 0
    assert "usage: " in capsys.readouterr().out


def test_a_directory_that_is_not_there_is_made_or_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "a" / "b"
    monkeypatch.setattr(sys, "argv", ["benchmarks", "run", "nosuch", "--directory", str(folder)])
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit, match="no scenario nosuch"):
        benchmarks_main()
    assert folder.is_dir()
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setattr(sys, "argv", ["benchmarks", "run", "k1", "--directory", str(tmp_path / "file")])
    with pytest.raises(SystemExit, match=r"--directory .*file can't be made"):
        benchmarks_main()


# -- pictures -------------------------------------------------------------------------------------


def test_results_are_drawn_as_png_and_svg(tmp_path: Path) -> None:
    written = plot_results([_result()], tmp_path)
    assert sorted(path.name for path in written) == [
        f"figures-{name}" for name in ("backup.png", "backup.svg", "restore.png", "restore.svg")
    ]
    assert (tmp_path / "figures-backup.png").read_bytes().startswith(b"\x89PNG")
    assert "k1" in (tmp_path / "figures-restore.svg").read_text()


def test_a_profile_is_folded_by_thread_library_and_function() -> None:
    stacks = fold(
        [
            "python  55d0c0ffee ZSTD_compress+0x12 (/x/zstandard/backend_c.cpython-311.so)",
            "rdk:broker1     7f12 rd_crc32c (/x/confluent_kafka.libs/librdkafka-1.so.1)",
            "rdk:broker2     7f13 rd_crc32c (/x/confluent_kafka.libs/librdkafka-1.so.1)",
            "commit-0  ffffffff81 copy_page ([kernel.kallsyms])",
            "nonsense",
        ]
    )
    assert stacks == {
        ("python", "zstd", "ZSTD_compress"): 1,
        ("rdk:brokerN", "librdkafka", "rd_crc32c"): 2,
        ("commit-N", "kernel", "copy_page"): 1,
    }
    picture = render(stacks, "a <title>")
    assert "rd_crc32c: 50.0%" in picture
    assert "a &lt;title&gt;" in picture


def test_the_checkpoint_benchmark_publishes_what_it_says(tmp_path: Path) -> None:
    found = measure_checkpoints(tmp_path, segments=60, partitions=4, new=5, rounds=3)
    manifest = load_manifest((tmp_path / "b" / "manifest.json").read_bytes(), name="m")
    assert sum(len(partition.segments) for partition in manifest.topics[0].partitions) == 75
    assert found["manifest_bytes"] == (tmp_path / "b" / "manifest.json").stat().st_size
    assert 0 < found["share_of_time"] <= 0.02


def test_the_index_benchmark_plans_the_same_with_the_index_as_without_it(tmp_path: Path) -> None:
    """It raises where the plans differ."""
    found = measure_index(tmp_path, segments=4_000)
    assert (found["segments"], found["blocks"]) == (4_000, 120_000)
    assert found["planned_segments"] == 40
    assert 600 < found["planned_blocks"] < 660
    assert 0 < found["index_read_bytes"] < found["index_bytes"]
    assert found["checkpoint_bytes"] < 100_000


def test_the_offsets_benchmark_maps_two_million_ranges_in_less_than_fifty_megabytes(tmp_path: Path) -> None:
    """A hundred million take little more: docs/performance.md."""
    found = measure_offsets(tmp_path, records=2_000_000, layout=1)
    assert found["ranges"] == 2_000_000
    assert 0 < found["grown_mb"] < 50
