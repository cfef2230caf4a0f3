"""Shared fixtures: a home of its own for every test, small images, a small network."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test sees or touches what the user has computed."""
    home = tmp_path / "home"
    monkeypatch.setenv("UNITLAB_HOME", str(home))
    return home


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Notebooks first: they take longest, and one process would be left with them. Tests in a browser last: Playwright leaves
    an event loop running in this thread, in which others could start none."""
    items.sort(key=lambda item: ("browser" in item.path.parts) - ("notebooks" in item.path.parts))
