"""The ``kbr`` program. Imports nothing at module level: worker processes may look at this module."""

from __future__ import annotations


def main() -> None:
    """Run the command line and exit with its code."""
    import atexit
    import gc

    # Imports make a hundred thousand objects that stay: looking through them 150 times took 40 ms of 260.
    gc.set_threshold(50_000, 20, 100)
    from kbr.runtime.crash_dumps import forbid_core_dumps
    from kbr.runtime.leaving import leave
    from kbr.secrecy import guard_stderr

    forbid_core_dumps()
    guard_stderr()
    status = 1
    atexit.register(lambda: leave(status))  # the first that is registered runs last
    try:
        try:
            from kbr.cli.main import cli
        except KeyboardInterrupt:  # the command line, which says so, is not there yet; nothing has begun
            raise SystemExit(130) from None
        cli.main(prog_name="kbr")
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 1
        raise


if __name__ == "__main__":
    main()
