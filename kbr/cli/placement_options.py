"""Flags that say where a restore puts what: from their words to what a configuration file would hold."""

from __future__ import annotations

from collections.abc import Sequence

import click

__all__ = ["read_choices", "read_configs", "read_counts"]


def read_choices(values: Sequence[str]) -> dict[str, str] | None:
    """``TOPIC:0,2-5`` flags as a mapping, those of one topic together; None if there are none.

    Raises:
        click.UsageError: another form.
    """
    found: dict[str, str] = {}
    for value in values:
        topic, separator, numbers = value.rpartition(":")
        if not separator or not topic or not numbers:
            raise click.UsageError(f"--source-partitions takes TOPIC:0,2-5, not {value!r}")
        found[topic] = f"{found[topic]},{numbers}" if topic in found else numbers
    return found or None


def read_counts(values: Sequence[str]) -> dict[str, str] | None:
    """``N`` and ``TOPIC=N`` flags as a mapping; N alone is for all topics. None if there are none.

    Raises:
        click.UsageError: another form, or two numbers for the same.
    """
    found: dict[str, str] = {}
    for value in (piece for one in values for piece in one.split(",")):
        topic, _, count = value.rpartition("=")
        if not count.isdecimal():
            raise click.UsageError(f"--target-partitions takes 12 or TOPIC=12, not {value!r}")
        if found.setdefault(topic or "*", count) != count:
            raise click.UsageError(f"--target-partitions gives {topic or 'all topics'} {found[topic or '*']} and {count}")
    return found or None


def read_configs(values: Sequence[str]) -> dict[str, str] | None:
    """``NAME=VALUE`` flags as a mapping; a value may hold commas and be empty. None if there are none.

    Raises:
        click.UsageError: another form, or one config with two values.
    """
    found: dict[str, str] = {}
    for value in values:
        name, separator, setting = value.partition("=")
        if not separator or not name:
            raise click.UsageError(f"--topic-config takes NAME=VALUE, not {value!r}")
        if found.setdefault(name, setting) != setting:
            raise click.UsageError(f"--topic-config sets {name} twice, to {found[name]} and to {setting}")
    return found or None
