"""Prints the ratios under pytest-benchmark's table; warnings of the peers are theirs."""

from __future__ import annotations

from typing import Any

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.filterwarnings("default"))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    session = getattr(config, "_benchmarksession", None)
    rows = [row for row in getattr(session, "benchmarks", []) if row.extra_info]
    if not rows:
        return
    terminalreporter.section("medians; ratios are ours over the peer's, of paired rounds")
    for row in rows:
        figures = "   ".join(
            f"{name.replace('_', ' ')} {value:,}"
            if isinstance(value, int)
            else f"{name.replace('_', ' ')} {value}"
            for name, value in row.extra_info.items()
        )
        terminalreporter.write_line(f"{row.name:<45} {figures}")
