"""``kbr config check|show|init``: flags, one call each, tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import click

from kbr.cli.documents import CheckDocument, KeyDocument, ProbeDocument, ProbeEntry
from kbr.cli.options import Invocation, config_options, storage_option, verb
from kbr.cli.render import Block, emit_text
from kbr.cli.tables import listed, table, text

__all__ = ["check_blocks", "command", "probe_blocks"]

_MODES = click.Choice(["backup", "restore"])


@click.group("config")
def command() -> None:
    """Check, show or begin a configuration file."""


_file_argument = click.argument("file", required=False, type=click.Path(dir_okay=False, path_type=Path))


@command.command("check")
@_file_argument
@config_options
@storage_option
@click.option("--mode", type=_MODES, help="Check that it is enough for this verb.")
@click.option(
    "--probe",
    is_flag=True,
    help="Connect as well: to the storage and the clusters that it names, and tell which rights a run will miss.",
)
@verb
def check(
    *,
    invocation: Invocation,
    file: Path | None,
    config_path: Path | None,
    sets: tuple[str, ...],
    storage: str | None,
    mode: Literal["backup", "restore"] | None,
    probe: bool,
) -> int:
    """List every mistake in a configuration with its line, or say that it is good.

    Without --probe it connects to nothing, and does not run the programs that print secrets (password_command). With
    it, it does what a run does, on small objects of its own: lists, writes, reads back and compares, and deletes them;
    of the clusters it reads topics, offsets and rights, and changes nothing.
    """
    config = invocation.load(
        file or config_path, sets=sets, overrides={"storage.url": storage}, mode=mode, run_commands=probe, all_clusters=probe
    )
    if probe:
        from kbr.app.probe import probe_config

        return invocation.finish(probe_config(config, mode=mode), probe_blocks)
    from kbr.app.check import check_config

    return invocation.finish(check_config(config), check_blocks)


def check_blocks(document: CheckDocument) -> list[Block]:
    """What people see of a check."""
    return [
        f"The configuration is good for: {listed(f'kbr {one}' for one in document['verbs'])}.",
        f"Backups lie at {document['storage']}. librdkafka is {document['librdkafka']}.",
    ]


def probe_blocks(document: ProbeDocument) -> list[Block]:
    """What people see of a check that connected."""
    lines = document["probe"]
    rows = [
        [one["place"], one["check"], one["outcome"], one["right"] or "-", listed(one["needed_for"]), one["detail"]]
        for one in lines
    ]
    columns = [text(title) for title in ("PLACE", "CHECK", "OUTCOME", "RIGHT", "NEEDED FOR", "FOUND")]
    verbs = listed(f"kbr {one}" for one in document["probed_for"])
    missed = [one for one in lines if one["missed"]]
    end = f"Nothing is missing for: {verbs}." if not missed else f"Missing for {verbs}: {listed(_named(one) for one in missed)}."
    return [*check_blocks(document), table(columns, rows), *_hints(missed), end]


def _named(one: ProbeEntry) -> str:
    # what failed for another reason (no such bucket, an option that is not followed) is no missing right
    right = f" ({one['right']})" if one["right"] and one["outcome"] == "denied" else ""
    return f"{one['place']}: {one['check']}{right}"


def _hints(missed: list[ProbeEntry]) -> list[str]:
    return list(dict.fromkeys(f"Hint: {one['hint']}" for one in missed if one["hint"]))


@command.command("show")
@_file_argument
@config_options
@storage_option
@click.option("--origin", is_flag=True, help="Say where each value comes from.")
@verb
def show(
    *,
    invocation: Invocation,
    file: Path | None,
    config_path: Path | None,
    sets: tuple[str, ...],
    storage: str | None,
    origin: bool,
) -> int:
    """Show the configuration as it is after file, environment and flags; secrets are hidden."""
    config = invocation.load(file or config_path, sets=sets, overrides={"storage.url": storage}, run_commands=False)
    from kbr.config.describe import describe_origin, to_plain

    document: dict[str, Any] = {"config": to_plain(config)}
    rows = [[row.key, _shown(row.value), row.source] for row in describe_origin(config)]
    if origin:
        document["origins"] = {row.key: row.source for row in describe_origin(config)}

    def blocks(_: object) -> list[Block]:
        columns = [text("KEY"), text("VALUE"), text("SOURCE")]
        return [table(columns, rows) if origin else table(columns[:2], [row[:2] for row in rows])]

    invocation.emit(document, blocks)
    return 0


def _shown(value: object) -> str:
    if value is None or (isinstance(value, (list, dict)) and not value):
        return "-"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return ", ".join(str(item) for item in value)
    return str(value)


@command.command("init")
@click.option("--mode", type=_MODES, default="backup", show_default=True, help="What the file is for.")
@verb
def init(*, invocation: Invocation, mode: Literal["backup", "restore"]) -> int:
    """Print a commented configuration file to begin with.

    \b
    kbr config init > kbr.yaml
    """
    from kbr.config.example import example_file

    text_of_file = example_file(mode)
    if invocation.output == "table":
        emit_text(text_of_file)
    else:
        invocation.emit({"mode": mode, "file": text_of_file}, lambda _: [])
    return 0


@command.command("key")
@click.option("--identity", "identity", type=click.Path(dir_okay=False, path_type=Path), help="Write an X25519 pair: FILE, FILE.pub.")
@click.option("--signing", "signing", type=click.Path(dir_okay=False, path_type=Path), help="Write an Ed25519 pair: FILE, FILE.pub.")
@verb
def key(*, invocation: Invocation, identity: Path | None, signing: Path | None) -> int:
    """Make a new key for encryption or signing.

    Without a flag a symmetric one is printed, for encryption.key. With one, a private key is written to FILE and its public
    one to FILE.pub, both readable by you only, and neither in place of another file. Keep a copy where no backup's loss takes it along:
    nobody can open a backup without its key.

    \b
    (umask 077; kbr config key > /etc/kbr/backup.key)
    kbr config key --identity /etc/kbr/identity.pem
    """
    if identity is not None and signing is not None:
        raise click.UsageError("--identity and --signing make one key each: give one of them")
    from kbr.app.trust import make_key

    kind = "identity" if identity is not None else "signing" if signing is not None else "symmetric"
    made = make_key(kind, identity or signing)
    if made.secret and invocation.output == "table":
        emit_text(f"{made.secret}\n")
        return 0
    return invocation.finish(made, _key_blocks)


def _key_blocks(document: KeyDocument) -> list[Block]:
    return [
        f"Wrote {document['private_file']} (private: keep it, and a copy of it, safe) and {document['public_file']}.",
        f"Its id is {document['key_id']}.",
    ]
