"""Programs that print secrets."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from kbr.config import load_config
from kbr.config.commands import run_secret_command
from kbr.config.describe import describe_origin
from kbr.errors import ConfigError


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_the_output_is_the_secret_without_one_newline() -> None:
    assert run_secret_command(python("print('s3cret')"), {}) == "s3cret"
    assert run_secret_command(python("print('a\\n')"), {}) == "a\n"


def test_no_shell_reads_the_arguments() -> None:
    assert run_secret_command([*python("import sys; print(sys.argv[1])"), "$(id); `id` *"], {}) == "$(id); `id` *"


def test_the_program_gets_the_environment_and_no_input() -> None:
    code = "import os, sys; print(os.environ['A'] + repr(sys.stdin.read()))"
    assert run_secret_command(python(code), {"A": "b"}) == "b''"


def test_the_program_does_not_get_kbrs_own_secrets() -> None:
    environ = {"KBR_STORAGE_SECRET_KEY": "x", "KBR_SOURCE_SECURITY_PASSWORD": "x", "KBR_ENCRYPTION_KEY": "x", "KBR_SOURCE_CLIENT": "{}", "VAULT_TOKEN": "t"}
    code = "import os; print(sorted(name for name in os.environ if name.startswith(('KBR_', 'VAULT_'))))"
    assert run_secret_command(python(code), environ) == "['VAULT_TOKEN']"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["/does/not/exist"], "can't run '/does/not/exist': No such file"),
        (python("raise SystemExit(3)"), "ended with exit code 3"),
        (python("import os, signal; os.kill(os.getpid(), signal.SIGKILL)"), "killed by signal 9"),
        (python("pass"), "printed nothing"),
        (python("print()"), "printed nothing"),
        (python("print('a\\0b')"), "NUL"),
        (python("import sys; sys.stdout.buffer.write(b'\\xff')"), "not UTF-8"),
        (python("print('x' * 100_000)"), "more than"),
    ],
)
def test_a_program_that_fails_is_an_error_without_its_output(argv: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        run_secret_command(argv, {})
    assert "xxxx" not in str(caught.value)


def test_a_program_that_hangs_is_ended() -> None:
    with pytest.raises(ValueError, match="did not end within 0.2 s"):
        run_secret_command(python("import threading; threading.Event().wait()"), {}, timeout_s=0.2)


def write(tmp_path: Path, argv: list[str], *, side: str = "source") -> Path:
    import json

    path = tmp_path / "kbr.yaml"
    path.write_text(
        f"""\
backup_id: a
storage: {{url: /x}}
source: {{bootstrap_servers: 'a:1'}}
{side}:
  bootstrap_servers: a:1
  security:
    security_protocol: SASL_SSL
    sasl_mechanism: PLAIN
    username: me
    password_command: {json.dumps(argv)}
""".replace("source: {bootstrap_servers: 'a:1'}\nsource:", "source:"),
        encoding="utf-8",
    )
    return path


def test_a_password_command_gives_the_password_and_says_so(tmp_path: Path) -> None:
    path = write(tmp_path, python("print('hunter2')"))
    config = load_config(path, environ={}, mode="backup")
    assert config.source.security.password is not None
    assert config.source.security.password.get_secret_value() == "hunter2"
    rows = {row.key: row for row in describe_origin(config)}
    assert rows["source.security.password"].value == "<redacted>"
    assert rows["source.security.password"].source == f"password_command ({path}:9:5)"


def test_a_failing_password_command_is_a_mistake_with_its_line(tmp_path: Path) -> None:
    path = write(tmp_path, ["/does/not/exist"])
    with pytest.raises(ConfigError, match=r"kbr.yaml:9:5: key source.security.password_command: can't run"):
        load_config(path, environ={}, mode="backup")


def test_programs_of_what_is_not_needed_are_not_run(tmp_path: Path) -> None:
    load_config(write(tmp_path, ["/does/not/exist"], side="target"), environ={}, mode="backup")
    load_config(write(tmp_path, ["/does/not/exist"]), environ={}, mode=None)
    load_config(write(tmp_path, ["/does/not/exist"]), environ={}, mode="backup", run_commands=False)


def test_no_program_is_run_for_a_configuration_with_mistakes(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    path = write(tmp_path, python(f"open({str(marker)!r}, 'w'); print('x')"))
    path.write_text(path.read_text(encoding="utf-8") + "backup: {workers: x}\n", encoding="utf-8")
    with pytest.raises(ConfigError):
        load_config(path, environ={}, mode="backup")
    assert not marker.exists()
