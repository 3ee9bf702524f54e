"""Runs the programs that print secrets. No shell; the output never appears in a message."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence

from kbr.config.expand import strip_newline

__all__ = ["TIMEOUT_S", "run_secret_command"]

#: Long enough for somebody to touch a key, short enough for a scheduled job to fail the same day.
TIMEOUT_S = 30.0
MAX_OUTPUT_BYTES = 64 * 1024


def run_secret_command(argv: Sequence[str], environ: Mapping[str, str], *, timeout_s: float = TIMEOUT_S) -> str:
    """What ``argv`` prints, without one newline at its end. Its standard error goes where ours goes.

    It gets the environment, which it may need (VAULT_TOKEN), but for kbr's own secrets.

    Raises:
        ValueError: it can't be run, fails, takes too long, or prints nothing usable.
    """
    program = ascii(argv[0])
    try:
        done = subprocess.run(  # noqa: S603  (the user's own program, given as a list)
            list(argv),
            env={name: value for name, value in environ.items() if not _is_ours(name)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ValueError(f"{program} did not end within {timeout_s:g} s") from error
    except OSError as error:
        raise ValueError(f"can't run {program}: {error.strerror or error}") from error
    if done.returncode != 0:
        how = (
            f"ended with exit code {done.returncode}"
            if done.returncode > 0
            else f"was killed by signal {-done.returncode}"
        )
        raise ValueError(f"{program} {how}")
    if len(done.stdout) > MAX_OUTPUT_BYTES:
        raise ValueError(f"{program} printed more than {MAX_OUTPUT_BYTES} bytes")
    try:
        secret = strip_newline(done.stdout.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{program} printed something that is not UTF-8 text") from error
    if not secret or "\x00" in secret:
        raise ValueError(f"{program} printed {'nothing' if not secret else 'a NUL character'}")
    return secret


def _is_ours(name: str) -> bool:
    # not only what is named like a secret: KBR_ENCRYPTION_KEY is one, KBR_SOURCE_CLIENT may hold some
    return name.startswith("KBR_")
