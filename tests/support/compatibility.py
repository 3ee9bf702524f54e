"""What a test proves for the page of compatibility: the marker ``compatibility``, as a property of its report.

    @pytest.mark.compatibility(column="multipart")                        # in a class with a ``row``
    @pytest.mark.compatibility(row="filesystem", column="two writers")

The property has a table ("storage" unless said), a row, a column and, where yes or no is not all, a ``value``. A class
whose ``row`` is empty has no row on the page. A pytest plugin (tests/conftest.py names it).
"""

from __future__ import annotations

import pytest

__all__ = ["pytest_configure", "pytest_runtest_setup"]


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line("markers", "compatibility(table, row, column, value): the test proves a cell of the page")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Note the cells of a test."""
    row = getattr(getattr(item, "cls", None), "row", "")
    for mark in item.iter_markers("compatibility"):
        cell = {"table": "storage", "row": row() if callable(row) else row, **mark.kwargs}
        if cell["row"]:
            item.user_properties.append(("compatibility", cell))
