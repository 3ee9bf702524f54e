"""Keys: made from checked facts, and taken apart again; nothing hostile gets into one."""

from __future__ import annotations

import pytest

from kbr.errors import UsageError
from kbr.model import Compression
from kbr.repository.layout import (
    backup_folder,
    backup_id_of,
    key_below_backup,
    manifest_key,
    parse_segment_key,
    partition_prefix,
    relative_segment_key,
    segment_key,
    topics_prefix,
)
from kbr.storage.base import check_key

HOSTILE = ["", ".", "..", "a/b", "/a", "a\\b", "a\0b", "%2e%2e", "a b", "ä"]


def test_keys_are_those_of_the_format_page() -> None:
    assert backup_folder("nightly") == "nightly/"
    assert manifest_key("nightly") == "nightly/manifest.json"
    assert topics_prefix("nightly") == "nightly/topics/"
    assert partition_prefix("nightly", "orders", 3) == "nightly/topics/orders/partition=3/"
    assert (
        segment_key("nightly", "orders", 3, 42, Compression.LZ4)
        == "nightly/topics/orders/partition=3/segment-00000000000000000042.lz4"
    )


def test_every_key_is_one_that_stores_take() -> None:
    check_key(segment_key("b" * 128, "t" * 249, 2**31 - 1, 2**63 - 1, Compression.ZSTD))
    check_key(manifest_key("..."))


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_never_become_a_key(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        segment_key(name, "orders", 0, 0, Compression.ZSTD)
    assert caught.value.exit_code == 2
    assert caught.value.hint
    with pytest.raises(UsageError):
        segment_key("nightly", name, 0, 0, Compression.ZSTD)
    for make in (backup_folder, manifest_key, topics_prefix):
        with pytest.raises(UsageError):
            make(name)
    with pytest.raises(UsageError):
        partition_prefix("nightly", name, 0)


def test_a_segments_key_tells_its_facts() -> None:
    key = relative_segment_key("orders", 3, 42, Compression.NONE)
    assert parse_segment_key(key) == ("orders", 3, 42, Compression.NONE)
    assert parse_segment_key(f"nightly/{key}") is None
    assert key_below_backup("nightly", f"nightly/{key}") == key
    with pytest.raises(ValueError, match="not below"):
        key_below_backup("nightly", f"other/{key}")


def test_only_manifests_and_segments_make_a_folder_a_backup() -> None:
    assert backup_id_of("nightly/manifest.json") == "nightly"
    assert backup_id_of(segment_key("nightly", "t", 0, 0, Compression.ZSTD)) == "nightly"
    for key in ("manifest.json", "nightly/readme.txt", "a b/manifest.json", "a/b/manifest.json"):
        assert backup_id_of(key) is None
