"""Work of more than two seconds: in a thread beside the kernel's event loop, with a progress bar and a button that stops it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import ipywidgets as W

from unitlab.errors import UnitlabError
from unitlab.views.explorer.messages import as_text, guarded
from unitlab.views.explorer.styled import styled

Progress = Callable[[int, int], None]

SECONDS_BETWEEN = 0.1


class Stopped(UnitlabError):
    """The reader stopped it."""


class BackgroundWork:
    """``widget``: hidden while nothing runs, else what is done, a bar (pulsing until the first count) and *Stop*.

    One piece of work at a time: another start stops the one before, whose result is dropped.
    """

    def __init__(self) -> None:
        self.label = styled(W.HTML)
        self.bar = styled(W.IntProgress, min=0, max=1, layout=W.Layout(width="260px"))
        self.stop_button = styled(W.Button, description="Stop", tooltip="stop this work", layout=W.Layout(width="auto"))
        self.widget = styled(W.HBox, "ul-work", [self.label, self.bar, self.stop_button], layout=W.Layout())
        self._stop: threading.Event | None = None
        self._tell_stopped: Callable[[], None] = lambda: None
        self.stop_button.on_click(lambda _: self._stopped_by_reader())
        self._show("")

    @property
    def running(self) -> bool:
        """Whether something runs."""
        return self._stop is not None

    def stop(self) -> None:
        """Drop what runs; its thread ends where it next tells its progress."""
        if self._stop is not None:
            self._stop.set()
            self._stop = None
            self._show("")

    def _stopped_by_reader(self) -> None:
        if self.running:
            self.stop()
            self._tell_stopped()

    def start(
        self, text: str, work: Callable[[Progress], Any], done: Callable[[Any], None], failed: Callable[[str], None]
    ) -> None:
        """Call ``work(progress)`` beside the kernel, then in it ``done(result)``, or ``failed(sentence)`` as after *Stop*.

        Where no event loop runs (a script, a test) all of it happens at once.
        """
        self.stop()
        stop = self._stop = threading.Event()
        self._tell_stopped = lambda: failed("Stopped; nothing of it was kept.")
        self.bar.value, self.bar.max = 0, 1
        self.widget.add_class("ul-preparing")
        self._show(text)
        try:
            loop: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            loop = None

        def in_kernel(call: Callable[..., Any], *args: Any) -> None:
            if loop is None:
                call(*args)
            else:
                loop.call_soon_threadsafe(call, *args)

        told = [0.0]

        def progress(count: int, of: int) -> None:
            if stop.is_set():
                raise Stopped("stopped")
            now = time.monotonic()
            if now - told[0] >= SECONDS_BETWEEN or count == of:
                told[0] = now
                in_kernel(self._tell, stop, count, of)

        def finished(result: Callable[[], Any]) -> None:
            if stop is not self._stop:
                return
            self._stop = None
            self._show("")
            guarded(lambda: done(result()), failed)()

        def run() -> None:
            try:
                value = work(progress)
            except Exception as error:
                in_kernel(finished, _raiser(error))
                return
            in_kernel(finished, lambda: value)

        if loop is None:
            run()
        else:
            threading.Thread(target=run, daemon=True, name="unitlab explorer").start()

    def _tell(self, stop: threading.Event, count: int, of: int) -> None:
        if stop is self._stop:
            self.widget.remove_class("ul-preparing")
            self.bar.max, self.bar.value = of, count

    def _show(self, text: str) -> None:
        self.label.value = f'<span role="status">{as_text(text)}</span>' if text else ""
        self.widget.layout.display = None if text else "none"


def _raiser(error: Exception) -> Callable[[], Any]:
    def raise_it() -> Any:
        raise error

    return raise_it
