"""The store with scripted faults: each fault does exactly what its name says, at the operation it is meant for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kbr.errors import StoreUnavailable
from kbr.storage.base import CommitsTogether, ObjectStore
from kbr.storage.local import LocalStore
from kbr.storage.memory import MemoryStore
from tests.support.archive import FolderObjects
from tests.support.fault_store import Fault, FaultStore, Killed, Operation, Script, open_view


@pytest.fixture(params=["memory", "folder"])
def inner(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    store = MemoryStore() if request.param == "memory" else LocalStore(str(tmp_path))
    store.put("b/there", b"0123456789")
    store.put("b/too", b"x")
    return store


def _upload(view: FaultStore) -> None:
    upload = view.open_upload("b/new")
    upload.write(b"01234")
    upload.write(b"56789")
    upload.commit()


ACTIONS: dict[str, tuple[str, Callable[[FaultStore], object]]] = {
    "put": ("b/new", lambda view: view.put("b/new", b"0123456789")),
    "open_upload": ("b/new", _upload),
    "write": ("b/new", _upload),
    "commit": ("b/new", _upload),
    "get": ("b/there", lambda view: view.get("b/there", max_bytes=100)),
    "head": ("b/there", lambda view: view.head("b/there")),
    "read_range": ("b/there", lambda view: view.read_range("b/there", 2, 3)),
    "list": ("b/", lambda view: list(view.list("b/"))),
    "delete": ("b/there", lambda view: view.delete("b/there")),
}
#: Those that change what is there.
DONE_AFTER = {"put", "commit", "delete"}


def _keys(store: ObjectStore) -> list[str]:
    return [info.key for info in store.list("")]


@pytest.mark.parametrize("name", ACTIONS)
@pytest.mark.parametrize("fault", Fault)
def test_a_fault_hits_its_operation_and_leaves_what_its_name_says(inner: ObjectStore, name: str, fault: Fault) -> None:
    key, action = ACTIONS[name]
    before = _keys(inner)
    clean = open_view(inner, Script())
    script = Script(at=Operation(name, key, 0), fault=fault)
    view = open_view(inner, script)
    told = fault in (Fault.FAIL_BEFORE, Fault.LOSE_REPLY) or (name == "list" and fault is Fault.PARTLY)
    with pytest.raises(StoreUnavailable if told else Killed):
        action(view)
    view.bury()
    assert script.fired
    assert view.is_dead != told
    done = name in DONE_AFTER and fault in (Fault.LOSE_REPLY, Fault.KILL_AFTER)
    after = _keys(inner)
    if not done:
        assert after == before
    elif name == "delete":
        assert after == ["b/too"]
    else:
        assert after == ["b/new", *before]
        assert clean.get("b/new", max_bytes=100) == b"0123456789"


@pytest.mark.parametrize("fault", [Fault.KILL_BEFORE, Fault.KILL_AFTER, Fault.PARTLY])
def test_after_its_death_a_process_changes_nothing_any_more(inner: ObjectStore, fault: Fault) -> None:
    view = open_view(inner, Script(at=Operation("write", "b/new", 1), fault=fault))
    upload = view.open_upload("b/new")
    upload.write(b"a")
    with pytest.raises(Killed):
        upload.write(b"b")
    upload.abort()
    for _key, action in ACTIONS.values():
        with pytest.raises(Killed):
            action(view)
    view.bury()
    assert _keys(inner) == ["b/there", "b/too"]


def test_a_killed_upload_leaves_its_temp_file_with_the_bytes_it_had(tmp_path: Path) -> None:
    view = open_view(LocalStore(str(tmp_path)), Script(at=Operation("write", "b/new", 0), fault=Fault.PARTLY))
    with pytest.raises(Killed):
        view.open_upload("b/new").write(b"0123456789")
    view.bury()
    (left,) = FolderObjects(tmp_path).leftovers()
    assert Path(left).read_bytes() == b"01234"


def test_a_failed_write_lets_go_of_its_temp_file(tmp_path: Path) -> None:
    view = open_view(LocalStore(str(tmp_path)), Script(at=Operation("write", "b/new", 0), fault=Fault.LOSE_REPLY))
    with pytest.raises(StoreUnavailable):
        view.open_upload("b/new").write(b"0123456789")
    assert FolderObjects(tmp_path).leftovers() == []


def test_only_the_worker_dies_unless_the_script_says_all(inner: ObjectStore) -> None:
    script = Script(whole_tree=False)
    supervisor, worker = open_view(inner, script), open_view(inner, script, is_worker=True)
    worker.kill()
    assert (supervisor.is_dead, worker.is_dead) == (False, True)
    supervisor.kill()
    other = open_view(inner, script, is_worker=True)
    assert other.is_dead, "nobody outlives the supervisor"


def test_a_view_commits_together_where_its_store_does(tmp_path: Path) -> None:
    assert not isinstance(open_view(MemoryStore(), Script()), CommitsTogether)
    script = Script(at=Operation("commit", "b/1", 0), fault=Fault.FAIL_BEFORE)
    view = open_view(LocalStore(str(tmp_path)), script)
    assert isinstance(view, CommitsTogether)
    uploads = [view.open_upload(f"b/{number}") for number in range(3)]
    for upload in uploads:
        upload.write(b"x")
    results = view.commit_together(uploads)
    assert [isinstance(result, StoreUnavailable) for result in results] == [False, True, False]
    assert [info.key for info in LocalStore(str(tmp_path)).list("")] == ["b/0", "b/2"]


def test_the_trace_names_operations_by_what_they_are_and_how_often_they_came(inner: ObjectStore) -> None:
    script = Script()
    view = open_view(inner, script)
    _upload(view)
    view.put("b/new", b"")
    assert list(map(str, script.trace)) == [
        "open_upload b/new #0",
        "write b/new #0",
        "write b/new #1",
        "commit b/new #0",
        "put b/new #0",
    ]
