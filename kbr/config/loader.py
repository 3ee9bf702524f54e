"""Loads a configuration: layers together, values and rules checked, secrets fetched; one error for all mistakes."""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path as FilePath
from typing import Any, Literal

from pydantic import ValidationError

from kbr.config.commands import run_secret_command
from kbr.config.document import MAX_BYTES
from kbr.config.exposure import exposure_warnings
from kbr.config.fields import ChoiceError, EntryError
from kbr.config.keys import all_keys, hint_of_later, is_option_path, is_secret_path, section_at, suggest
from kbr.config.layers import Layers
from kbr.config.model import Config
from kbr.config.problems import DEFAULT_ORIGIN, Origin, Path, Problem, as_name, raise_problems
from kbr.config.rules import findings
from kbr.errors import ConfigError
from kbr.secrecy import hide, is_likely_secret, secrets_of_environment

__all__ = ["load_config"]

Mode = Literal["backup", "restore"]
#: Unknown keys whose nearest valid one is looked for.
_SUGGESTIONS = 100
#: Refused where it would be used, and in some client properties it is.
_PASSWORD_IN_URL = re.compile(r"://[^/@\s:]*:([^/@\s]+)@")


def load_config(
    path: FilePath | None,
    *,
    sets: Sequence[str] = (),
    overrides: Mapping[str, object] | None = None,
    environ: Mapping[str, str],
    mode: Mode | None = None,
    run_commands: bool = True,
    all_clusters: bool = False,
) -> Config:
    """Read, merge and check a configuration.

    Args:
        path: the YAML file; None for none.
        sets: ``a.b.c=value`` texts from the command line.
        overrides: values by dotted name, from flags or a program; None values are 'not given'.
        environ: for ``${VAR}`` and the KBR_* variables.
        mode: what it has to be enough for; None asks for the storage only.
        run_commands: run ``*_command`` programs for the cluster of ``mode`` and the storage.
        all_clusters: run those of both clusters.

    Raises:
        ConfigError: the file can't be read, or anything in the layers is wrong: all of it, with places.
    """
    hide(secrets_of_environment(environ))
    layers = Layers(environ)
    if path is not None:
        layers.add_file(str(path), _read(path))
        hide(layers.secrets)
        raise_problems(problem for problem in layers.problems if not problem.path)
    layers.add_environment()
    layers.add_sets(sets)
    layers.add_overrides(overrides or {})
    for side in ("source", "target"):
        layers.add_command_config(side)
    # before anything is said about any of it
    hide(_secrets(layers.data, ()))
    layers.settle()
    problems = list(layers.problems)
    config, found = _validate(layers)
    problems.extend(_new(found, problems))
    broken = [problem.path for problem in problems]
    if config is None:
        config = _without_broken(layers, broken)
    if config is not None:
        problems.extend(_rule_problems(config, mode, layers, broken))
    raise_problems(problems)
    if config is None:
        raise ConfigError("the configuration is not valid")  # pragma: no cover  (no config means problems)
    if run_commands:
        needed = {"storage", "encryption", "signing", {"backup": "source", "restore": "target"}.get(mode or config.mode or "", "storage")}
        config = _with_secrets(config, layers, {*needed, "source", "target"} if all_clusters else needed, environ)
    config._origins.update(layers.origins)
    config._variables.update(layers.variables)
    config._warnings.extend([*layers.notes, *exposure_warnings(config, path, layers.secret_files)])
    return config


def _secrets(data: object, path: Path) -> Iterator[str]:
    """The texts at the places of secrets, right or wrong."""
    if isinstance(data, Mapping):
        for name, entry in data.items():
            yield from _secrets(entry, (*path, str(name)))
    elif isinstance(data, (list, tuple)):
        for entry in data:
            yield from _secrets(entry, path)
    elif data is not None and not is_secret_path(path):
        yield from _PASSWORD_IN_URL.findall(str(data))
    elif data is not None:
        reveal = getattr(data, "get_secret_value", None)
        value = str(data if reveal is None else reveal())
        if not is_option_path(path) or is_likely_secret(path[-1], value):
            yield value


def _read(path: FilePath) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "not a usable path"
        raise ConfigError(
            f"can't read the configuration file {path}: {reason}",
            hint="give it with -c FILE; kbr config init prints one",
        ) from error


def _validate(layers: Layers) -> tuple[Config | None, list[Problem]]:
    try:
        return Config.model_validate(layers.data), []
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False)
        # the nearest key of each takes a millisecond to find, and a file may have 100,000 wrong ones
        return None, [
            _problem(detail, layers.origins, with_suggestion=number < _SUGGESTIONS) for number, detail in enumerate(details)
        ]


def _problem(detail: Mapping[str, Any], origins: Mapping[Path, Origin], *, with_suggestion: bool) -> Problem:
    path: Path = tuple(str(step) for step in detail["loc"])
    cause = detail.get("ctx", {}).get("error")
    what, suggestion = str(cause or detail["msg"]), ""
    shown: Path | None = None
    if detail["type"] == "extra_forbidden":
        shown = (*path[:-1], as_name(path[-1]))
        what, suggestion = "unknown key" + hint_of_later(shown), suggest(shown) if with_suggestion else ""
    elif detail["type"] in ("model_type", "model_attributes_type"):
        what = "is a section: it takes keys of its own, not a value" if path else "must be a mapping of keys"
    elif detail["type"] == "greater_than_equal":
        what = f"must be {detail['ctx']['ge']} or more"
    elif detail["type"] == "less_than_equal":
        what = f"must be {detail['ctx']['le']} or less"
    elif isinstance(cause, EntryError):
        # a name in front of a value that may be a secret, whatever is wrong with it
        named = path in {key.path for key in all_keys() if key.kind in ("properties", "mapping of options")}
        shown = (*path, *map(as_name, cause.steps)) if named else None
        path = (*path, *cause.steps)
    elif isinstance(cause, ChoiceError):
        suggestion = cause.nearest
    return Problem(path=shown or path, what=what, origin=_nearest_origin(path, origins), suggestion=suggestion)


def _nearest_origin(path: Path, origins: Mapping[Path, Origin]) -> Origin:
    for length in range(len(path), -1, -1):
        found = origins.get(path[:length])
        if found is not None:
            return found
    return Origin(rank=DEFAULT_ORIGIN.rank, where="configuration")


def _new(found: Iterable[Problem], known: Iterable[Problem]) -> list[Problem]:
    """Those of ``found`` that don't only repeat a mistake at the same place."""
    places = [problem.path for problem in known if problem.path]
    return [problem for problem in found if not _touches(problem.path, places)]


def _touches(path: Path, places: Iterable[Path]) -> bool:
    return any(path[: len(place)] == place or place[: len(path)] == path for place in places)


def _without_broken(layers: Layers, broken: Iterable[Path]) -> Config | None:
    """The configuration as if the broken values were not given, so that the rules can be judged too."""
    data = copy.deepcopy(layers.data)
    keys = {key.path for key in all_keys()}
    for path in broken:
        inner: Any = data
        for length, step in enumerate(path, start=1):
            if not isinstance(inner, dict) or step not in inner:
                break
            if path[:length] in keys or section_at(path[:length]) is None or not isinstance(inner[step], dict):
                del inner[step]
                break
            inner = inner[step]
    try:
        return Config.model_validate(data)
    except ValidationError:
        return None


def _rule_problems(config: Config, mode: Mode | None, layers: Layers, broken: Sequence[Path]) -> list[Problem]:
    problems = []
    for finding in findings(config, mode):
        # of a cluster whose client.properties can't be used, nobody knows what is missing
        unread = [(finding.path[0], "command_config")] if finding.path[0] in ("source", "target") else []
        if any(_touches(path, broken) for path in (finding.path, *finding.involved, *unread)):
            continue
        origin = _nearest_origin(finding.path, layers.origins)
        problems.append(Problem(path=finding.path, what=finding.what, origin=origin, hint=finding.hint))
    return problems


def _with_secrets(config: Config, layers: Layers, needed: Collection[str], environ: Mapping[str, str]) -> Config:
    """Run the programs of the parts that are needed, and check again with what they printed."""
    problems = []
    data = copy.deepcopy(layers.data)
    for key in all_keys():
        if not key.path[-1].endswith("_command") or key.path[0] not in needed:
            continue
        *steps, name = key.path
        model: Any = config
        inner: Any = data
        for step in steps:
            model = getattr(model, step)
            inner = inner.get(step, {})
        argv = getattr(model, name)
        if argv is None:
            continue
        origin = _nearest_origin(key.path, layers.origins)
        try:
            secret = run_secret_command(argv, environ)
            hide([secret])
            inner[name.removesuffix("_command")] = secret
        except ValueError as error:
            problems.append(Problem(path=key.path, what=str(error), origin=origin))
            continue
        place = (*steps, name.removesuffix("_command"))
        layers.origins[place] = Origin(
            rank=origin.rank, where=f"{name} ({origin.where})", order=origin.order
        )
    raise_problems(problems)
    return Config.model_validate(data)
