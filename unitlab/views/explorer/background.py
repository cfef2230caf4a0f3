"""Work of more than two seconds, beside the kernel's event loop: told of as it goes, and stopped on demand."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from typing import Any

import xarray as xr

from unitlab.catalog import load
from unitlab.errors import UnitlabError
from unitlab.views.explorer.measured_study import COUNTED, MeasuredStudy, measures_of

Progress = Callable[..., None]  # done, of how many, and what is known so far

SECONDS_BETWEEN = 0.1
HEAD_START = 1.0  # seconds in which the page draws what is there already, with both processors


class Stopped(UnitlabError):
    """The reader stopped it."""

    def __init__(self) -> None:
        super().__init__("Stopped; nothing of it was kept.")


def running_loop() -> asyncio.AbstractEventLoop | None:
    """The kernel's event loop; None in a script or a test, where all of it happens at once."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


class BackgroundWork:
    """One piece of work at a time: another start stops the one before, whose result is dropped."""

    def __init__(self) -> None:
        self._stop: threading.Event | None = None
        self._failed: Callable[[Exception], None] = lambda error: None

    def stop(self) -> None:
        """Drop what runs; its thread ends where it next tells its progress."""
        if self._stop is not None:
            self._stop.set()
            self._stop = None
            self._failed(Stopped())

    def start(
        self, work: Callable[[Progress], Any], told: Progress, done: Callable[[Any], None], failed: Callable[[Exception], None]
    ) -> None:
        """Call ``work(progress)`` beside it; in the kernel ``told(count, of)``, then ``done(result)`` or ``failed(error)``."""
        self.stop()
        loop, stop, last = running_loop(), threading.Event(), 0.0
        self._stop, self._failed = stop, failed

        def in_kernel(call: Callable[..., None], *given: Any, ended: bool = False) -> None:
            def unless_stopped() -> None:
                if stop is self._stop:
                    self._stop = None if ended else stop
                    call(*given)

            if loop is None:
                unless_stopped()
            elif not loop.is_closed():
                loop.call_soon_threadsafe(unless_stopped)

        def progress(count: int, of: int, *known: Any) -> None:
            nonlocal last
            if stop.is_set():
                raise Stopped
            now = time.monotonic()
            if now - last >= SECONDS_BETWEEN or count == of:
                last = now
                in_kernel(told, count, of, *known)

        def run() -> None:
            try:
                value = work(progress)
            except Exception as error:
                in_kernel(failed, error, ended=True)
            else:
                in_kernel(done, value, ended=True)

        if loop is None:
            run()
        else:
            threading.Thread(target=run, daemon=True, name="unitlab explorer").start()


def measure_beside(study: MeasuredStudy, stored: Any, told: Callable[[Exception | None], None]) -> None:
    """Finish a study, which `unitlab.load` opens by ``stored``, if any; then ``told(None)``, or with the error. What is quick
    is measured while the page draws, so that it comes soon after the first picture."""
    loop = running_loop()
    if loop is None:
        study.finish()
        told(None)
        return
    study.awaiting.append(told)
    if len(study.awaiting) > 1:
        return  # another explorer's measuring will do

    def measured(_progress: Progress) -> xr.Dataset:
        if stored is not None and not study.is_quick:
            # another process, which steps back: the kernel keeps its memory, its interpreter lock and its processor
            nicer: Any = {"initializer": getattr(os, "nice", None), "initargs": (10,)}
            spawn = multiprocessing.get_context("spawn")
            with suppress(BrokenProcessPool), ProcessPoolExecutor(1, spawn, **nicer) as processes:
                found = processes.submit(_measures_of_store, stored, study.layer, study.ablation).result()
                # the dataset that was given may be a part of what is stored, or another
                if all(found[name].variable.equals(study.measures[name].variable) for name in (*COUNTED, "unit", "category")):
                    return found
        return measures_of(study.ds)

    def ended(measures: xr.Dataset | None, error: Exception | None = None) -> None:
        if error is None:
            study.finish(measures)
        waiting, study.awaiting = study.awaiting, []
        for tell in waiting:
            tell(error)

    given = measured, lambda *_: None, ended, lambda error: ended(None, error)
    loop.call_later(0 if study.is_quick else HEAD_START, BackgroundWork().start, *given)


def _measures_of_store(stored: Any, layer: str, ablation: str) -> xr.Dataset:
    return measures_of(load(stored, layer, ablation)).load()
