"""Measures that take seconds are computed beside the kernel, so that the explorer answers meanwhile."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from typing import Any

import xarray as xr

from unitlab.views.explorer.measured_study import MeasuredStudy, measures_of, measures_of_store
from unitlab.views.explorer.opening import StudySource

HEAD_START = 1.0  # seconds in which the page draws what is there already, with both processors


def measure_beside(
    study: MeasuredStudy, source: StudySource, done: Callable[[], None], failed: Callable[[Exception], None]
) -> None:
    """Finish ``study``; ``done()`` or ``failed(error)`` is then called in the kernel's event loop. What is quick is measured
    while the page draws, so that it comes soon after the first picture.

    Where no event loop runs (a script, a test) all of it happens at once.
    """
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        study.finish()
        done()
        return
    study.awaiting.append(done)
    if len(study.awaiting) > 1:
        return  # another explorer's measuring will do

    def finished(result: Callable[[], xr.Dataset]) -> None:
        waiting, study.awaiting = study.awaiting, []
        try:
            try:
                measures: xr.Dataset | None = result()
            except BrokenProcessPool:
                measures = None  # no second process here: the kernel does it
            study.finish(measures)
        except Exception as error:
            failed(error)
            return
        for call in waiting:
            call()

    def start() -> None:
        with suppress(ImportError):
            import dask.array  # noqa: F401  xarray will, and a cell and a thread at once would find it half imported
        if source.path is not None and not study.is_quick:
            # another process: the kernel's memory and its interpreter lock stay free
            spawn = multiprocessing.get_context("spawn")
            executor: Executor = ProcessPoolExecutor(1, mp_context=spawn, initializer=_step_back)
            future: Future[Any] = executor.submit(measures_of_store, str(source.path), study.layer, study.ablation)
        else:
            executor = ThreadPoolExecutor(1)
            future = executor.submit(measures_of, study.ds)
        executor.shutdown(wait=False)
        future.add_done_callback(lambda found: None if loop.is_closed() else loop.call_soon_threadsafe(finished, found.result))

    loop.call_later(0 if study.is_quick else HEAD_START, start)


def _step_back() -> None:
    """Leave the processors to the kernel and the page where they want them."""
    if hasattr(os, "nice"):
        os.nice(10)
