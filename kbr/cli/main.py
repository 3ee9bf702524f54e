"""The ``kbr`` command group: which verbs there are, loaded when asked for, and where every error ends.

Start-up counts: nothing but click is imported until a verb runs.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

import click

from kbr.cli.failure import report_failure

__all__ = ["ALIASES", "VERBS", "KbrGroup", "cli"]

#: Verb: its module in kbr.cli (the command has the same name there) and its line in the overview.
VERBS: dict[str, tuple[str, str]] = {
    "backup": ("backup_cmd", "Back up topics of a Kafka cluster."),
    "restore": ("restore_cmd", "Restore topics into a Kafka cluster."),
    "list": ("list_cmd", "List the backups at a place."),
    "describe": ("describe_cmd", "Show what a backup holds."),
    "verify": ("verify_cmd", "Prove that a backup is whole."),
    "cat": ("cat_cmd", "Print a backup's records, as kcat prints a topic's."),
    "groups": ("groups_cmd", "Show a backup's consumer groups; put a target's."),
    "offsets": ("offsets_cmd", "Show or export which offset became which in a restore."),
    "index": ("index_cmd", "Build or show a backup's index of blocks."),
    "status": ("status_cmd", "Show running backups and restores, or change a rate limit."),
    "config": ("config_cmd", "Check, show or begin a configuration file."),
    "demo": ("demo_cmd", "See kbr work, on a broker of its own."),
}
#: What users of other tools type.
ALIASES = {"ls": "list", "info": "describe", "show": "describe", "check": "verify", "validate": "verify"}


class KbrGroup(click.Group):
    """A group that loads a verb's module when the verb is used, and reports every error in one place."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All verbs, in the order of `VERBS`."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load a verb by its name or an alias."""
        name = ALIASES.get(cmd_name, cmd_name)
        if name not in VERBS:
            return None
        module = import_module(f"kbr.cli.{VERBS[name][0]}")
        command = module.command
        return command if isinstance(command, click.Command) else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the verb; a wrong one gets the nearest right one."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from difflib import get_close_matches

            near = get_close_matches(args[0], [*VERBS, *ALIASES], n=1) if args else []
            asked = f" did you mean '{near[0]}'?" if near else ""
            raise click.UsageError(f"no such command {args[0]!r}.{asked}", ctx=ctx) from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The overview, without loading a verb."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in VERBS.items()])

    def main(self, args: Sequence[str] | None = None, *rest: Any, **extra: Any) -> NoReturn:
        """Run, and exit with the verb's exit code or the error's."""
        extra["standalone_mode"] = False
        arguments = list(sys.argv[1:] if args is None else args)
        try:
            result = super().main(arguments, *rest, **extra)
        except BaseException as error:
            if isinstance(error, SystemExit):
                raise
            sys.exit(report_failure(error, arguments))
        sys.exit(result if isinstance(result, int) else 0)


def _print_version(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if not value or ctx.resilient_parsing:
        return
    from importlib.metadata import version

    click.echo(f"kbr {version('kbr')}")
    ctx.exit()


@click.group(
    cls=KbrGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 incomplete, 4 damage found, 5 temporary: run "
    "again, 10 no such backup, 11 locked, 12 wrong key, 13 refused, 130 interrupted.",
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version and exit.",
)
def cli() -> None:
    """Back up Apache Kafka topics to object storage or a folder, and restore them exactly.

    Begin with `kbr demo`, or with `kbr config init > kbr.yaml`. `kbr VERB --help` lists a verb's flags.
    """
