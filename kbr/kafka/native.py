"""Brings kbr_codec and confluent-kafka to the same librdkafka: the one copy in this process."""

from __future__ import annotations

from confluent_kafka import cimpl

from kbr.errors import UnsupportedFormat
from kbr_codec import rdkafka

__all__ = ["load_library"]


def load_library() -> str:
    """Resolve librdkafka's C API from the library that confluent-kafka has loaded; again is a no-op.

    Returns:
        librdkafka's version.

    Raises:
        UnsupportedFormat: that librdkafka is too old or lacks a function.
    """
    try:
        return rdkafka.load(cimpl.__file__)
    except rdkafka.LibraryError as error:
        raise UnsupportedFormat(
            str(error), hint="install confluent-kafka 2.10 or newer: pip install -U 'confluent-kafka>=2.10'"
        ) from error
