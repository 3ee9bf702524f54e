"""The configuration: YAML, environment and flags in, one frozen `Config` out.

Owns the keys, their meaning, their defaults and every message about a mistake in them. Knows nothing
of Kafka, storage or processes: kbr.app turns a `Config` into the options of the layers below.
"""

from __future__ import annotations

from kbr.config.describe import OriginRow, describe_origin, to_plain
from kbr.config.example import example_file
from kbr.config.keys import Key, all_keys
from kbr.config.loader import load_config
from kbr.config.model import Config
from kbr.config.schema import json_schema

__all__ = [
    "Config",
    "Key",
    "OriginRow",
    "all_keys",
    "describe_origin",
    "example_file",
    "json_schema",
    "load_config",
    "to_plain",
]
