"""File, environment and flags become one tree of plain data, with the origin of every value.

Owns the precedence: flag > environment > file > a Java client's file (command_config) > default. Mappings merge entry by entry, anything else is replaced
as a whole. Knows the names of keys, not what is valid for them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path as FilePath
from typing import Any

from kbr.config.document import DocumentError, Node, Scalar, parse_document
from kbr.config.document import Mapping as MappingNode
from kbr.config.expand import expand
from kbr.config.keys import Key, UnknownKey, all_keys, find_key, hint_of_later, is_secret_path, section_at, suggest
from kbr.config.problems import DEFAULT_ORIGIN, Origin, Path, Problem, Rank, as_name
from kbr.config.storage import S3_KEYS
from kbr.secrecy import is_likely_secret, is_secret_variable

__all__ = ["Layers"]

_SECTIONS = ("SOURCE", "TARGET", "STORAGE", "ENCRYPTION", "SIGNING", "BACKUP", "RESTORE", "LOGGING", "LIMITS")
_OURS = re.compile(rf"KBR_(?:{'|'.join(_SECTIONS)})_")
#: What Kubernetes injects for a service that is called kbr-source: no settings.
_SERVICE = re.compile(r"_SERVICE_(?:HOST|PORT)(?:_|$)|_PORT(?:_[0-9]+_(?:TCP|UDP|SCTP)(?:_|$)|$)")
_COMMAND_LINE = Origin(rank=Rank.FLAG, where="command line")
_WITH_SECRETS = frozenset({"properties", "mapping of options"})
#: Maps whose entries have variables of their own, and what stands for '_' in them.
_ENTRY_VARIABLES = {"properties": ".", "topic configs": ".", "mapping of options": "_"}


class Layers:
    """The tree as far as it has been put together; call the ``add_`` methods from the lowest layer to the highest.

    Attributes:
        data: nested plain data.
        origins: of every step that some layer gave.
        problems: mistakes found on the way.
        notes: what was left out, in sentences.
        secrets: what ``${file:...}`` and variables that are named like secrets stand for, wherever they are used.
        variables: names of those that ``${...}`` was used of.
        secret_files: where the texts of secrets come from: files of ``${file:...}``, and the configuration file itself if
            it holds one as it is.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self.data: dict[str, Any] = {}
        self.origins: dict[Path, Origin] = {}
        self.problems: list[Problem] = []
        self.notes: list[str] = []
        self.secrets: list[str] = []
        self.variables: set[str] = set()
        self.secret_files: list[str] = []

    # -- the layers ---------------------------------------------------------------------------

    def add_file(self, name: str, text: bytes) -> None:
        """The configuration file; the lowest layer."""
        try:
            root = parse_document(text)
        except DocumentError as error:
            where = f"{name}:{error.mark.line}:{error.mark.column}"
            origin = Origin(rank=Rank.FILE, where=where, order=(error.mark.line, error.mark.column))
            self.problems.append(Problem(path=(), what=error.what, origin=origin))
            return
        if not isinstance(root, MappingNode):
            origin = Origin(rank=Rank.FILE, where=f"{name}:{root.mark.line}:{root.mark.column}")
            self.problems.append(
                Problem(path=(), what="must be a mapping of keys, such as 'backup_id: nightly-1'", origin=origin)
            )
            return
        self.origins[()] = Origin(rank=Rank.FILE, where=name)
        self.data = self._plain(root, (), name)

    def add_environment(self) -> None:
        """KBR_* variables; an empty one is as good as unset."""
        left = {
            name: value
            for name, value in self._environ.items()
            if _OURS.match(name) and value and not _SERVICE.search(name)
        }
        for key in all_keys():
            value = self._environ.get(key.variable, "")
            left.pop(key.variable, None)
            if value:
                self._add_text(key, key.path, value, Origin(rank=Rank.ENVIRONMENT, where=key.variable))
            if key.kind in _ENTRY_VARIABLES:
                # two underscores, then the property with '_' for '.': KBR_SOURCE_CLIENT__FETCH_MIN_BYTES
                start = key.variable + "__"
                for name in [name for name in left if name.startswith(start)]:
                    entry = name[len(start) :].lower().replace("_", _ENTRY_VARIABLES[key.kind])
                    self._add_text(key, (*key.path, entry), left.pop(name), Origin(rank=Rank.ENVIRONMENT, where=name))
        for name in sorted(left):
            origin = Origin(rank=Rank.ENVIRONMENT, where=name)
            self.problems.append(
                Problem(path=(), what="no key has this variable", origin=origin, suggestion=_nearest_variable(name))
            )

    def add_sets(self, sets: Iterable[str]) -> None:
        """``a.b.c=value`` texts from the command line; a secret among them is refused."""
        for one in sets:
            name, separator, value = one.partition("=")
            origin = Origin(rank=Rank.FLAG, where=f"--set {name.partition(':')[0]}" if separator and name else "--set")
            if not separator or not name:
                self.problems.append(Problem(path=(), what="must be key=value", origin=origin))
                continue
            try:
                key, path = find_key(name)
            except UnknownKey as error:
                self._unknown(error, origin)
                continue
            if is_secret_path(path) or (key.kind in _WITH_SECRETS and path == key.path):
                self.problems.append(_secret_on_command_line(path, origin, whole=path == key.path and not key.secret))
                continue
            self._add_text(key, path, value, origin)

    def add_overrides(self, overrides: Mapping[str, object]) -> None:
        """Values by dotted name, from flags; None is 'not given'."""
        for name, value in overrides.items():
            if value is None:
                continue
            try:
                key, path = find_key(name)
            except UnknownKey as error:
                self._unknown(error, _COMMAND_LINE)
                continue
            self._put(path, value, _COMMAND_LINE, merge=key.is_map)

    def add_command_config(self, side: str) -> None:
        """What ``{side}.command_config`` names, below all other layers, which say whether there is one: so after them."""
        section = self._section((side,)) or {}
        name = section.get("command_config")
        if not isinstance(name, str) or not name:
            return
        # librdkafka is only loaded where such a file is read: it costs a twentieth of a second
        from kbr.config.java_client import read_client_properties
        from kbr.kafka.properties import is_known_property, settable_names

        client = read_client_properties(FilePath(name), is_librdkafkas=is_known_property, known=settable_names)
        for steps, (value, line) in client.values.items():
            path = (side, *steps)
            if not self._is_given(path):
                self._put(path, value, _java_origin(name, line), merge=False)
        for problem in client.problems:
            self.problems.append(
                Problem(
                    path=(side, "command_config"),
                    what=problem.what,
                    origin=_java_origin(name, problem.line),
                    suggestion=problem.suggestion,
                    hint=problem.hint,
                )
            )
        if client.ignored:
            self.notes.append(f"{name}: these mean nothing to kbr and are left out: {', '.join(client.ignored)}")

    def _is_given(self, path: Path) -> bool:
        """Whether a layer has it, or something else where it would have to be."""
        inner: Any = self.data
        for step in path:
            if not isinstance(inner, dict):
                return inner is not None
            inner = inner.get(step)
        return inner is not None

    def settle(self) -> None:
        """Let the higher layer win where keys exclude each other, and drop keys that were left empty."""
        storage = self.data.get("storage")
        if isinstance(storage, dict):
            self._settle_storage(storage)
        for key in all_keys():
            if key.path[-1].endswith("_command"):
                self._settle_pair(key.path, (*key.path[:-1], key.path[-1].removesuffix("_command")))
        self._drop_nothing(self.data, ())

    # -- inside -------------------------------------------------------------------------------

    def _plain(self, node: Node, path: Path, name: str) -> Any:
        if isinstance(node, Scalar):
            if node.text is None:
                return None
            try:
                if is_secret_path(path) and node.text and "${" not in node.text and name not in self.secret_files:
                    self.secret_files.append(name)
                return expand(node.text, self._environ, note=self._note)
            except ValueError as error:
                self.problems.append(Problem(path=path, what=str(error), origin=self.origins[path]))
                return node.text
        if not isinstance(node, MappingNode):
            for number, item in enumerate(node.items):
                place = (*path, str(number))
                self.origins[place] = _file_origin(name, item.mark.line, item.mark.column)
            return [self._plain(item, (*path, str(number)), name) for number, item in enumerate(node.items)]
        plain: dict[str, Any] = {}
        for step, (mark, child) in node.entries.items():
            place = (*path, step)
            self.origins[place] = _file_origin(name, mark.line, mark.column)
            plain[step] = self._plain(child, (*path, step), name)
        return plain

    def _note(self, reference: str, value: str) -> None:
        if not reference.startswith("file:"):
            self.variables.add(reference)
        if reference.startswith("file:"):
            self.secret_files.append(reference.removeprefix("file:"))
            self.secrets.append(value)
        elif is_secret_variable(reference) and is_likely_secret(reference, value):
            self.secrets.append(value)

    def _add_text(self, key: Key, path: Path, text: str, origin: Origin) -> None:
        value: Any = text
        structured = path == key.path and (key.is_list or key.is_map)
        if structured and text.lstrip()[:1] in ("[", "{"):
            try:
                value = _without_marks(parse_document(text.encode("utf-8", "surrogateescape")))
            except (DocumentError, UnicodeError):
                self.problems.append(Problem(path=path, what="is not a YAML list or mapping", origin=origin))
                return
        self._put(path, value, origin, merge=key.is_map)

    def _put(self, path: Path, value: Any, origin: Origin, *, merge: bool) -> None:
        if merge and isinstance(value, Mapping):
            for name, entry in value.items():
                self._put((*path, str(name)), entry, origin, merge=True)
            if value:
                return
        inner = self.data
        for number, step in enumerate(path[:-1]):
            child = inner.get(step)
            if child is None:
                child = inner[step] = {}
                self.origins.setdefault(path[: number + 1], origin)
            if not isinstance(child, dict):
                return  # a lower layer has no mapping here, which is reported as its mistake
            inner = child
        inner[path[-1]] = value
        for known in [known for known in self.origins if known[: len(path)] == path]:
            del self.origins[known]
        self.origins[path] = origin

    def _unknown(self, error: UnknownKey, origin: Origin) -> None:
        known = error.what == "unknown key"
        self.problems.append(
            Problem(
                path=(*error.path[:-1], as_name(error.path[-1])),
                what=error.what + hint_of_later(error.path),
                origin=origin,
                suggestion=suggest(error.path) if known else "",
            )
        )

    def _rank(self, path: Path) -> Rank:
        return self.origins.get(path, DEFAULT_ORIGIN).rank

    def _settle_pair(self, one: Path, other: Path) -> None:
        section = self._section(one[:-1])
        if section is None or one[-1] not in section or other[-1] not in section:
            return
        if self._rank(one) != self._rank(other):
            self._forget(section, one if self._rank(one) < self._rank(other) else other)

    def _settle_storage(self, storage: dict[str, Any]) -> None:
        url = storage.get("url")
        parts = [name for name in ("backend", "path", "bucket", "prefix") if name in storage]
        if not url:
            return
        rank = self._rank(("storage", "url"))
        if parts and max(self._rank(("storage", name)) for name in parts) > rank:
            self._forget(storage, ("storage", "url"))
            return
        is_other = "://" in str(url) and not str(url).startswith(("s3://", "file://"))
        lower = [*parts, *(() if str(url).startswith("s3://") else S3_KEYS), *(() if is_other else ("options",))]
        for name in lower:
            if name in storage and self._rank(("storage", name)) < rank:
                self._forget(storage, ("storage", name))

    def _forget(self, section: dict[str, Any], path: Path) -> None:
        del section[path[-1]]
        self.origins.pop(path, None)

    def _section(self, path: Path) -> dict[str, Any] | None:
        inner: Any = self.data
        for step in path:
            inner = inner.get(step) if isinstance(inner, dict) else None
        return inner if isinstance(inner, dict) else None

    def _drop_nothing(self, data: dict[str, Any], path: Path) -> None:
        """``key:`` with nothing behind it: an empty section, a key that is optional, or a mistake."""
        defaults = {key.path: key.default for key in all_keys()}
        for name, value in list(data.items()):
            here = (*path, name)
            if isinstance(value, dict) and here not in defaults:
                self._drop_nothing(value, here)
            elif value is None:
                if here in defaults and defaults[here] not in (None, {}):
                    what = "has no value: give it one, or remove the line"
                    self.problems.append(Problem(path=here, what=what, origin=self.origins[here]))
                if here in defaults or section_at(here) is not None:
                    del data[name]


def _file_origin(name: str, line: int, column: int) -> Origin:
    return Origin(rank=Rank.FILE, where=f"{name}:{line}:{column}", order=(line, column))


def _java_origin(name: str, line: int) -> Origin:
    return Origin(rank=Rank.COMMAND_CONFIG, where=f"{name}:{line}" if line else name, order=(line, 0))


def _without_marks(node: Node) -> Any:
    if isinstance(node, Scalar):
        return node.text
    if isinstance(node, MappingNode):
        return {name: _without_marks(child) for name, (_, child) in node.entries.items()}
    return [_without_marks(item) for item in node.items]


def _nearest_variable(name: str) -> str:
    near = get_close_matches(name, [key.variable for key in all_keys()], n=1, cutoff=0.6)
    return near[0] if near else ""


def _secret_on_command_line(path: Path, origin: Origin, *, whole: bool) -> Problem:
    what = (
        "can hold secrets: set its entries one by one"
        if whole
        else "is a secret: the command line stands in the process list"
    )
    return Problem(
        path=path,
        what=what,
        origin=origin,
        hint=""
        if whole
        else "put ${VARIABLE}, ${file:/path} or a *_command into the configuration file, or set its KBR_ variable",
    )
