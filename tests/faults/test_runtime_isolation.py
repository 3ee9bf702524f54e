"""What workers get of their caller, and what they must not get."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kbr.runtime.messages import TaskSpec
from kbr.runtime.supervisor import Supervisor
from tests.support.servers import REPOSITORY

ENTRY = "tests.unit.runtime.worker_verbs:work"
HEAVY = {"click", "rich", "pyarrow", "pydantic", "yaml", "s3fs", "fsspec", "confluent_kafka"}

#: No `if __name__ == "__main__"` on purpose.
SCRIPT = f"""
import os, sys
sys.path.insert(0, {str(REPOSITORY)!r})
from kbr.runtime.supervisor import Supervisor
from kbr.runtime.messages import TaskSpec
print("main runs", flush=True)
outcome = Supervisor(entry={ENTRY!r}, worker_count=2, preload=["kbr.backup.task", "kbr.restore.task"]).run(
    [TaskSpec(task_id=str(n), payload=("surroundings", None)) for n in range(3)], on_event=lambda t, e: None)
assert not outcome.failures, outcome.failures
print(list(outcome.results.values()), flush=True)
"""


def _call(arguments: list[str], cwd: Path) -> list[dict[str, object]]:
    """What workers see when Python is called like this."""
    environ = {**os.environ, "KBR_SOURCE_SECURITY_PASSWORD": "s3cr3t-1", "DB_PASSWORD": "s3cr3t-2", "AWS_X": "kept"}
    done = subprocess.run(
        [sys.executable, *arguments, "--password", "s3cr3t-3"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=cwd,
        env=environ,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    first, second = done.stdout.splitlines()
    assert first == "main runs"
    found = ast.literal_eval(second)
    assert len(found) == 3
    return found


@pytest.fixture
def called(tmp_path: Path, request) -> list[dict[str, object]]:
    (tmp_path / "script.py").write_text(SCRIPT)
    arguments = {"file": ["script.py"], "-m": ["-m", "script"], "-c": ["-c", SCRIPT]}[request.param]
    return _call(arguments, tmp_path)


@pytest.mark.parametrize("called", ["file", "-m", "-c"], indirect=True)
def test_the_callers_main_module_is_run_once_and_its_secrets_stay_with_it(called: list[dict[str, object]]) -> None:
    for seen in called:
        assert seen["main"] is None
        assert len(seen["argv"]) <= 1
        for place in ("environ", "environ_of_process", "environ_of_parent"):
            assert "s3cr3t" not in str(seen[place]), place
        assert seen["environ"]["AWS_X"] == "kept"
        assert seen["core"] <= 1, "a core file would hold what the process knows"
        assert seen["parent_threads"] == 1, "nobody may fork a process that has threads"


def _run(*payloads: object, preload: tuple[str, ...] = ()) -> dict[str, object]:
    supervisor = Supervisor(entry=ENTRY, worker_count=1, preload=preload)
    tasks = [TaskSpec(task_id=str(number), payload=payload) for number, payload in enumerate(payloads)]
    outcome = supervisor.run(tasks, on_event=lambda task, event: None)
    assert outcome.failures == {}
    return outcome.results


def test_the_callers_own_main_and_arguments_are_as_before() -> None:
    main, arguments, environ = sys.modules["__main__"], sys.argv, dict(os.environ)
    _run(("pid", None))
    assert sys.modules["__main__"] is main
    assert sys.argv is arguments
    assert dict(os.environ) == environ


def test_modules_in_the_current_folder_are_not_loaded_by_accident(tmp_path: Path) -> None:
    for name in ("resource", "faulthandler", "selectors", "kbr"):
        (tmp_path / f"{name}.py").write_text(f"open('loaded-{name}', 'w').close()\n")
    (tmp_path / "elsewhere").mkdir()
    script = tmp_path / "elsewhere" / "script.py"  # its own folder is on its path, the current one is not
    script.write_text(SCRIPT)
    _call([str(script)], tmp_path)
    assert list(tmp_path.glob("loaded-*")) == []


def test_a_worker_of_the_runtime_alone_loads_nothing_heavy(tmp_path: Path) -> None:
    script = (
        f"import sys; sys.path.insert(0, {str(REPOSITORY)!r})\n"
        "from kbr.runtime.supervisor import Supervisor\n"
        "from kbr.runtime.messages import TaskSpec\n"
        f"supervisor = Supervisor(entry={ENTRY!r}, worker_count=1)\n"
        "outcome = supervisor.run([TaskSpec(task_id='0', payload=('modules', None))], on_event=lambda t, e: None)\n"
        "print(outcome.results['0'])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    loaded = {name.partition(".")[0] for name in ast.literal_eval(done.stdout)}
    assert "kbr" in loaded
    assert not loaded & HEAVY


def test_what_workers_write_to_standard_error_arrives_to_the_last_byte(tmp_path: Path) -> None:
    text = "".join(f"line {number}\n" for number in range(2000)) + "a last one without its end"
    script = (
        f"import sys; sys.path.insert(0, {str(REPOSITORY)!r})\n"
        "from kbr.runtime.supervisor import Supervisor\n"
        "from kbr.runtime.messages import TaskSpec\n"
        f"supervisor = Supervisor(entry={ENTRY!r}, worker_count=1)\n"
        f"supervisor.run([TaskSpec(task_id='0', payload=('write_to_stderr', {text!r}))], on_event=lambda t, e: None)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == text
    assert done.stdout == "on stdout"


#: As the command line does: the forkserver is started before anything is known, and secrets come up then.
EARLY_SCRIPT = f"""
import os, sys
sys.path.insert(0, {str(REPOSITORY)!r})
from kbr.runtime.executors.local import prestart
from kbr.runtime.supervisor import Supervisor
from kbr.runtime.messages import TaskSpec
from kbr.secrecy import hide
from multiprocessing import forkserver
prestart(["kbr.backup.task"], withheld=["EARLY"])
first = forkserver._forkserver._forkserver_pid
hide([value for value in sys.argv[1:] if value])
def run(withheld):
    outcome = Supervisor(entry={ENTRY!r}, worker_count=2, withheld=withheld).run(
        [TaskSpec(task_id=str(n), payload=("surroundings", None)) for n in range(3)], on_event=lambda t, e: None)
    assert not outcome.failures, outcome.failures
    return list(outcome.results.values())
print([*run(["LATE"]), *run([])], flush=True)
print(forkserver._forkserver._forkserver_pid == first)
"""


@pytest.mark.parametrize(
    ("environ", "hidden", "is_kept"),
    [
        ({"OTHER": "plain", "EARLY": "s3cr3t-1"}, "", True),
        ({"OTHER": "jdbc:x?p=s3cr3t-2", "EARLY": "s3cr3t-1"}, "s3cr3t-2", False),
        ({"OTHER": "plain", "EARLY": "s3cr3t-1", "LATE": "s3cr3t-3"}, "", False),
    ],
)
def test_a_secret_that_is_known_only_once_the_forkserver_runs_reaches_no_worker(
    environ: dict[str, str], hidden: str, is_kept: bool
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", EARLY_SCRIPT, hidden],
        capture_output=True, text=True, timeout=60, check=False, env={**os.environ, **environ},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    found, kept = done.stdout.splitlines()
    for seen in ast.literal_eval(found):
        for place in ("environ", "environ_of_process", "environ_of_parent"):
            assert "s3cr3t" not in str(seen[place]), place
        assert seen["environ"].get("OTHER") == (None if hidden else "plain")
    assert kept == str(is_kept), "time is lost only where it has to be"


def test_who_only_watches_resources_inherits_next_to_nothing() -> None:
    script = (
        f"import sys; sys.path.insert(0, {str(REPOSITORY)!r})\n"
        "from kbr.runtime.executors.local import prestart\n"
        "from multiprocessing import resource_tracker\n"
        "prestart([])\n"
        "environ = open(f'/proc/{resource_tracker._resource_tracker._pid}/environ').read()\n"
        "print(sorted(one.partition('=')[0] for one in environ.split(chr(0)) if one))"
    )
    environ = {**os.environ, "AWS_SECRET_ACCESS_KEY": "s3cr3t", "OTHER": "plain"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True, env=environ)
    names = ast.literal_eval(done.stdout)
    assert "PATH" in names
    assert not {"AWS_SECRET_ACCESS_KEY", "OTHER"} & set(names)
