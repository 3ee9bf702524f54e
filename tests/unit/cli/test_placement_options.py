"""Flags that say where a restore puts what."""

from __future__ import annotations

import click
import pytest

from kbr.cli.placement_options import read_choices, read_configs, read_counts


def test_flags_become_what_a_file_would_hold() -> None:
    assert read_choices(["orders:0,2-5", "eu-*:1", "orders:7"]) == {"orders": "0,2-5,7", "eu-*": "1"}
    assert read_counts(["12", "orders=4,eu-*=3"]) == {"*": "12", "orders": "4", "eu-*": "3"}
    assert read_configs(["cleanup.policy=compact,delete", "compression.type=", "a=b=c"]) == {
        "cleanup.policy": "compact,delete",
        "compression.type": "",
        "a": "b=c",
    }
    assert (read_choices([]), read_counts([]), read_configs([])) == (None, None, None)


@pytest.mark.parametrize("value", ["orders", "orders:", ":1"])
def test_another_form_of_a_choice_is_refused(value: str) -> None:
    with pytest.raises(click.UsageError, match="TOPIC:0,2-5"):
        read_choices([value])


@pytest.mark.parametrize("value", ["", "x", "orders=", "orders=x", "-1"])
def test_another_form_of_a_count_is_refused(value: str) -> None:
    with pytest.raises(click.UsageError, match="12 or TOPIC=12"):
        read_counts([value])


def test_two_answers_to_one_question_are_refused() -> None:
    with pytest.raises(click.UsageError, match="all topics 3 and 4"):
        read_counts(["3", "4"])
    with pytest.raises(click.UsageError, match="sets a twice"):
        read_configs(["a=1", "a=2"])
    with pytest.raises(click.UsageError, match="NAME=VALUE"):
        read_configs(["=2"])
