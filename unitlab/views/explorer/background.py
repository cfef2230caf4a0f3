"""Work of more than two seconds: in a thread beside the kernel's event loop, told of as it goes, and stopped on demand."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

from unitlab.errors import UnitlabError

Progress = Callable[..., None]  # done, of how many, and what is known so far

SECONDS_BETWEEN = 0.1


class Stopped(UnitlabError):
    """The reader stopped it."""

    def __init__(self) -> None:
        super().__init__("Stopped; nothing of it was kept.")


class BackgroundWork:
    """One piece of work at a time: another start stops the one before, whose result is dropped."""

    def __init__(self) -> None:
        self._stop: threading.Event | None = None
        self._failed: Callable[[Exception], None] = lambda error: None

    @property
    def running(self) -> bool:
        """Whether something runs."""
        return self._stop is not None

    def stop(self) -> None:
        """Drop what runs; its thread ends where it next tells its progress."""
        if self._stop is not None:
            self._stop.set()
            self._stop = None
            self._failed(Stopped())

    def start(
        self, work: Callable[[Progress], Any], told: Progress, done: Callable[[Any], None], failed: Callable[[Exception], None]
    ) -> None:
        """Call ``work(progress)`` beside the kernel; in it ``told(count, of)``, then ``done(result)`` or ``failed(error)``.

        Where no event loop runs (a script, a test) all of it happens at once.
        """
        self.stop()
        stop = self._stop = threading.Event()
        self._failed = failed
        try:
            loop: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            loop = None
        last = [0.0]

        def in_kernel(call: Callable[..., Any], *args: Any) -> None:
            if loop is None:
                call(*args)
            elif not loop.is_closed():
                loop.call_soon_threadsafe(call, *args)

        def progress(count: int, of: int, *known: Any) -> None:
            if stop.is_set():
                raise Stopped
            now = time.monotonic()
            if now - last[0] >= SECONDS_BETWEEN or count == of:
                last[0] = now
                in_kernel(lambda: told(count, of, *known) if stop is self._stop else None)

        def ended(call: Callable[[Any], None], value: Any) -> None:
            if stop is self._stop:
                self._stop = None
                call(value)

        def run() -> None:
            try:
                value = work(progress)
            except Exception as error:
                in_kernel(ended, failed, error)
                return
            in_kernel(ended, done, value)

        if loop is None:
            run()
        else:
            threading.Thread(target=run, daemon=True, name="unitlab explorer").start()
