"""The group: verbs, aliases, and what every kind of error looks like and costs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from kbr.cli.main import ALIASES, VERBS, cli
from kbr.errors import BackupMissing, ConfigError, KbrError
from tests.support.cli import kbr_environment


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, list(arguments))


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Makes `kbr list` end with an error."""

    def fail_with(error: BaseException) -> None:
        def fail(_config: object) -> None:
            raise error

        monkeypatch.setattr("kbr.app.inspect.list_backups", fail)

    return fail_with


def test_the_overview_lists_every_verb_with_its_line() -> None:
    result = run("--help")
    assert result.exit_code == 0
    for name, (_, line) in VERBS.items():
        assert f"{name} " in result.stdout
        assert line in result.stdout
    for alias in set(ALIASES) - set(VERBS):
        assert f"\n  {alias} " not in result.stdout


@pytest.mark.parametrize("name", list(VERBS))
def test_a_verbs_line_in_the_overview_is_its_own_first_line(name: str) -> None:
    command = import_module(f"kbr.cli.{VERBS[name][0]}").command
    assert command.name == name
    assert (command.help or "").splitlines()[0] == VERBS[name][1]


@pytest.mark.parametrize(("alias", "name"), ALIASES.items())
def test_an_alias_is_its_verb(alias: str, name: str) -> None:
    context = click.Context(cli)
    assert cli.get_command(context, alias) is cli.get_command(context, name)
    assert alias not in cli.list_commands(context)


def test_every_verb_has_the_flags_that_all_have() -> None:
    def leaves(command: click.Command) -> list[click.Command]:
        if isinstance(command, click.Group):
            return [leaf for one in command.commands.values() for leaf in leaves(one)]
        return [command]

    for name in VERBS:
        for command in leaves(import_module(f"kbr.cli.{VERBS[name][0]}").command):
            flags = {flag for option in command.params for flag in option.opts}
            assert {"-o", "--output", "--log-format", "-v", "--verbose", "-q", "--quiet", "--debug"} <= flags, (
                command.name
            )


def test_the_version_is_told() -> None:
    result = run("--version")
    assert result.exit_code == 0
    assert result.stdout.startswith("kbr ")


@pytest.mark.parametrize(
    "arguments",
    [
        ["lst"],
        ["backup", "--nope"],
        ["list", "extra"],
        ["list", "-o", "xml"],
        ["list", "-v", "-q"],
        ["describe", "--storage", "/x"],
    ],
)
def test_a_wrong_command_line_is_exit_code_2_and_names_the_help(arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("arguments", [[], ["groups"], ["offsets"], ["config"], ["index"]])
def test_nothing_asked_for_is_answered_with_the_help(arguments: list[str]) -> None:
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == run(*arguments, "--help").stdout
    assert result.stderr.startswith("Usage: ")


def test_a_misspelt_verb_gets_the_nearest_one() -> None:
    assert "did you mean 'restore'?" in run("restroe").stderr


def test_an_error_is_one_line_and_a_hint(failing: Callable[[BaseException], None]) -> None:
    failing(BackupMissing("there is no backup x at /y", hint="kbr list shows them"))
    result = run("list", "--storage", "/y")
    assert result.exit_code == 10
    assert result.stdout == ""
    assert result.stderr == "Error: there is no backup x at /y\nHint: kbr list shows them\n"


@pytest.mark.parametrize("flag", [["-o", "json"], ["-ojson"], ["--output=json"], ["--output", "json"], ["-o=json"]])
def test_programs_get_the_error_as_an_object_too(failing: Callable[[BaseException], None], flag: list[str]) -> None:
    failing(BackupMissing("gone\x1b", hint="look"))
    result = run("list", "--storage", "/y", *(["-o", "json"] if flag == ["-o=json"] else flag))
    assert json.loads(result.stderr.splitlines()[-1]) == {
        "message_type": "exit_error",
        "code": 10,
        "id": "BackupMissing",
        "message": "gone\x1b",
        "hint": "look",
    }


def test_programs_get_a_wrong_command_line_as_an_object_too() -> None:
    result = run("backup", "-o", "json", "--nope")
    found = json.loads(result.stderr.splitlines()[-1])
    assert (found["code"], found["id"]) == (2, "UsageError")


def test_text_in_an_error_can_not_act_on_a_terminal(failing: Callable[[BaseException], None]) -> None:
    failing(KbrError("bad \x1b[2J topic\rx", hint="a\x9bb\nc"))
    result = run("list", "--storage", "/y")
    assert result.exit_code == 1
    assert result.stderr == "Error: bad \\x1b[2J topic\\x0dx\nHint: a\\x9bb\\x0ac\n"


def test_several_mistakes_keep_their_lines(failing: Callable[[BaseException], None]) -> None:
    failing(ConfigError("2 mistakes:\n  a\n  b"))
    assert run("list", "--storage", "/y").stderr == "Error: 2 mistakes:\n  a\n  b\n"


def test_an_unexpected_error_is_a_bug_without_a_traceback(failing: Callable[[BaseException], None]) -> None:
    failing(RuntimeError("what\x1b now"))
    result = run("list", "--storage", "/y")
    assert result.exit_code == 1
    assert result.stderr == (
        "Error: unexpected RuntimeError: what\\x1b now\n"
        "Hint: this is a bug in kbr; run with --debug for the traceback\n"
    )


def test_debug_shows_the_traceback(failing: Callable[[BaseException], None]) -> None:
    failing(RuntimeError("what"))
    result = run("list", "--storage", "/y", "--debug")
    assert "Traceback (most recent call last)" in result.stderr
    assert result.exit_code == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt(), click.Abort()])
def test_an_interrupt_is_exit_code_130(failing: Callable[[BaseException], None], error: BaseException) -> None:
    failing(error)
    result = run("list", "--storage", "/y")
    assert result.exit_code == 130
    assert result.stderr.strip().endswith("Error: interrupted")


def test_an_interrupt_within_a_client_that_does_not_heed_it_is_one_too(failing: Callable[[BaseException], None]) -> None:
    error = SystemError("<built-in method describe_topics> returned a result with an exception set")
    error.__cause__ = KeyboardInterrupt()
    failing(error)
    result = run("list", "--storage", "/y")
    assert (result.exit_code, result.stderr) == (130, "Error: interrupted\n")
    failing(SystemError("another"))
    assert run("list", "--storage", "/y").exit_code == 1


def test_memory_that_is_gone_is_one_line_too(failing: Callable[[BaseException], None]) -> None:
    failing(MemoryError())
    result = run("list", "--storage", "/y")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: unexpected MemoryError\n")


def test_a_verb_whose_standard_output_is_closed_says_so_in_one_line(tmp_path: Path) -> None:
    done = subprocess.run(  # noqa: S603
        ["/bin/sh", "-c", 'exec "$@" >&-', "sh", sys.executable, "-m", "kbr", "list", "--storage", str(tmp_path)],
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
        env=kbr_environment(),
    )
    assert (done.returncode, done.stderr) == (1, "Error: can't write the result to standard output: it is closed\n")


def test_a_name_from_outside_begins_no_line_and_is_not_endless(failing: Callable[[BaseException], None]) -> None:
    failing(KbrError("topic a\nHint: all is well\x1b[2J " + "x" * 50_000, hint="b\nError: c"))
    error, hint = run("list", "--storage", "/y").stderr.splitlines()
    assert error.startswith("Error: topic a\\x0aHint: all is well\\x1b[2J xxx")
    assert len(error) < 21_000
    assert hint == "Hint: b\\x0aError: c"
