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


# whole files go to a process that is free: the long ones first, so that none is left running alone (`tests/run --durations`)
LONG_FILES = (
    "notebooks/test_notebooks_run.py", "compute/test_exactness.py", "recipes/test_stand_ins.py", "compute/test_cluster.py",
    "compute/test_networks.py", "test_package.py", "views/test_explorer.py", "test_fuzzed_stores.py", "test_cli.py",
    "compute/test_directions.py", "analysis/test_null_and_planted.py", "compute/test_groups.py",
    "browser/test_explorer.py", "browser/test_notebooks_in_lab.py", "browser/test_live_ablations.py",
    "browser/test_other_front_ends.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first. Tests in a browser last: Playwright leaves an event loop running in this thread, in which others could
    start none."""
    tests = Path(__file__).parent
    rank = {tests / name: place for place, name in enumerate(LONG_FILES)}
    items.sort(key=lambda item: ("browser" in item.path.parts, rank.get(item.path, len(rank))))
