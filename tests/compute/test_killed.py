"""Sweeps that are ended by ``kill -9`` at random moments go on and end as if nothing had happened."""

from __future__ import annotations

import json
import multiprocessing
import random
import signal
import time
from collections.abc import Iterator
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pytest
from killed_sweep import sweep_to

from unitlab.store.study import check_files


@pytest.fixture(scope="module")
def processes() -> Iterator[ForkServerContext]:
    """Real processes, forked from one that has loaded torch and computed nothing."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["unitlab.compute.sweep.run"])
    yield context


def killed(processes: ForkServerContext, store: Path, after: float) -> bool:
    """Kill a sweep after so many seconds; False where it was done before."""
    process = processes.Process(target=sweep_to, args=(str(store),))
    process.start()
    process.join(after)
    process.kill()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def whole(processes: ForkServerContext, store: Path) -> float:
    """Let a sweep end; how many seconds it took."""
    start = time.perf_counter()
    assert not killed(processes, store, 120)
    return time.perf_counter() - start


def without_time(value: Any) -> Any:
    """Metadata without the time of its making."""
    if isinstance(value, dict):
        return {name: without_time(inner) for name, inner in value.items() if name != "created"}
    return value


def content(store: Path) -> dict[str, Any]:
    """All files of a store, byte by byte; metadata but for the timestamp."""
    files = {str(path.relative_to(store)): path for path in sorted(store.rglob("*")) if path.is_file()}
    del files["manifest.json"]
    return {
        name: without_time(json.loads(path.read_text())) if name.endswith("zarr.json") else path.read_bytes()
        for name, path in files.items()
    }


def test_killed_at_random_moments(processes: ForkServerContext, tmp_path: Path) -> None:
    whole(processes, tmp_path / "first" / "study.zarr")
    duration = whole(processes, tmp_path / "whole" / "study.zarr")
    expected = content(tmp_path / "whole" / "study.zarr")
    assert content(tmp_path / "first" / "study.zarr") == expected
    moments, stores = random.Random(0), []
    while len(stores) < 5:
        store = tmp_path / f"cut-{len(stores)}" / "study.zarr"
        if killed(processes, store, moments.uniform(0.05, 0.95) * duration):
            stores.append(store)
    for store in stores:
        killed(processes, store, moments.uniform(0.05, 0.5) * duration)
        whole(processes, store)
        check_files(store)
        assert content(store) == expected
        assert [path.name for path in store.parent.iterdir()] == ["study.zarr"]
