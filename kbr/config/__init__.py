"""The configuration: YAML, environment and flags in, one frozen `Config` out.

Owns the keys, their meaning, their defaults and every message about a mistake in them. Knows nothing
of Kafka, storage or processes: kbr.app turns a `Config` into the options of the layers below.

What only documentation and `kbr config` need is in kbr.config.describe, .example, .keys and .schema: a backup starts
20 ms sooner without them.
"""

from __future__ import annotations

from kbr.config.loader import load_config
from kbr.config.model import Config

__all__ = ["Config", "load_config"]
