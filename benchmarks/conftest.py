"""Prints the ratios under pytest-benchmark's table; warnings of the peers are theirs."""

from __future__ import annotations

from typing import Any

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.filterwarnings("default"))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    session = getattr(config, "_benchmarksession", None)
    rows = [row for row in getattr(session, "benchmarks", []) if "ratio" in row.extra_info]
    if not rows:
        return
    terminalreporter.section("tokens/s, ours against the peer's: medians of paired rounds")
    for row in rows:
        info = dict(row.extra_info)
        ratio = info.pop("ratio")
        sides = "   ".join(
            f"{name.removesuffix('_tokens_per_second')} {speed:,}" for name, speed in info.items()
        )
        terminalreporter.write_line(f"{row.name:<45} {ratio:>6.2f} x   {sides}")
