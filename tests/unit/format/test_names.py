"""Names: an allow-list in both directions."""

from __future__ import annotations

import pytest

from kbr.format.names import (
    is_backup_id,
    is_topic_name,
    parse_segment_name,
    partition_folder,
    segment_name,
)
from kbr.model import Compression

HOSTILE = ["", ".", "..", "a/b", "/a", "a\\b", "a\0b", "%2e%2e", "a b", "ä", "a\n", "٣", "a" * 250]


@pytest.mark.parametrize("name", HOSTILE)
def test_nothing_but_the_allow_list_is_a_topic_or_a_backup_id(name: str) -> None:
    assert not is_topic_name(name)
    assert not is_backup_id(name)
    with pytest.raises(ValueError, match="topic"):
        partition_folder(name, 0)


def test_names_up_to_their_longest_are_allowed() -> None:
    assert is_topic_name("a" * 249)
    assert is_backup_id("a" * 128)
    assert not is_backup_id("a" * 129)
    assert is_topic_name("...")
    assert is_topic_name("__consumer_offsets")


@pytest.mark.parametrize("compression", list(Compression))
def test_a_segment_name_says_its_facts_and_only_those(compression: Compression) -> None:
    name = segment_name("a.b-c_D", 12, 2**63 - 1, compression)
    assert name == f"topics/a.b-c_D/partition=12/segment-09223372036854775807{compression.extension}"
    assert parse_segment_name(name) == ("a.b-c_D", 12, 2**63 - 1, compression)


@pytest.mark.parametrize("number", [-1, 2**31])
def test_a_partition_is_an_int32(number: int) -> None:
    with pytest.raises(ValueError, match="partition"):
        segment_name("t", number, 0, Compression.ZSTD)


@pytest.mark.parametrize("number", [-1, 2**63])
def test_a_sequence_is_an_offset(number: int) -> None:
    with pytest.raises(ValueError, match="offset"):
        segment_name("t", 0, number, Compression.ZSTD)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "manifest.json",
        "topics/t/partition=0/segments.json",
        "topics/../partition=0/segment-00000000000000000000.zst",
        "topics/t/partition=00/segment-00000000000000000000.zst",
        "topics/t/partition=-1/segment-00000000000000000000.zst",
        "topics/t/partition=2147483648/segment-00000000000000000000.zst",
        "topics/t/partition=0/segment-0.zst",
        "topics/t/partition=0/segment-0000000000000000000٣.zst",
        "topics/t/partition=0/segment-99999999999999999999.zst",
        "topics/t/partition=0/segment-00000000000000000000.gz",
        "topics/t/partition=0/segment-00000000000000000000.zst\n",
        "topics/t/partition=0/x/segment-00000000000000000000.zst",
        "/topics/t/partition=0/segment-00000000000000000000.zst",
        "b/topics/t/partition=0/segment-00000000000000000000.zst",
    ],
)
def test_no_other_name_is_taken_for_a_segments(name: str) -> None:
    assert parse_segment_name(name) is None
