"""The ``kbr`` program. Imports nothing at module level: worker processes may look at this module."""

from __future__ import annotations


def main() -> None:
    """Run the command line and exit with its code."""
    from kbr.cli.main import cli

    cli.main(prog_name="kbr")


if __name__ == "__main__":
    main()
