"""How a sweep tells how far it is, and how Ctrl-C ends it."""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

from tqdm.auto import tqdm

log = logging.getLogger("unitlab")


_around: ContextVar[tqdm[Any] | None] = ContextVar("_around", default=None)


def images_bar(images: int, *, finished: int = 0, description: str, shown: bool) -> AbstractContextManager[tqdm[Any]]:
    """A progress bar over images; rate and time left are those of what is computed now, not of what was ``finished``."""
    around = _around.get()
    if around is not None:
        return nullcontext(around)
    # smoothing=0: shards arrive in bursts from several workers, so the rate is the mean since the bar was made
    bar: tqdm[Any] = tqdm(total=images, initial=finished, unit=" images", smoothing=0, disable=not shown, desc=description)
    return bar


@contextmanager
def one_bar(images: int, description: str, shown: bool) -> Iterator[None]:
    """Sweeps inside share a bar over all images that they go through together."""
    with images_bar(images, description=description, shown=shown) as bar:
        before = _around.set(bar)
        try:
            yield
        finally:
            _around.reset(before)


def within_one_bar() -> bool:
    """Whether a sweep is part of something larger."""
    return _around.get() is not None


def say(text: str, shown: bool) -> None:
    """To the log; to stderr where that is not read and progress is ``shown``."""
    log.info("%s", text)
    if shown and not log.isEnabledFor(logging.INFO):
        print(text, file=sys.stderr)


class InterruptRequest:
    """Whether Ctrl-C was pressed, and whether it was pressed again."""

    def __init__(self) -> None:
        self.made = self.repeated = False

    def heed(self) -> None:
        """Stop here where Ctrl-C was pressed."""
        if self.made:
            raise KeyboardInterrupt

    def heed_repeated(self) -> None:
        """Stop here where it was pressed again and Python lost that, as it loses what is raised within a ``__del__``."""
        if self.repeated:
            raise KeyboardInterrupt


@contextmanager
def interrupt_after_shard(kept: bool) -> Iterator[InterruptRequest]:
    """Within the block the first Ctrl-C is a request that is heeded between shards; the second one stops at once.

    Where shards are not ``kept``, outside of the main thread, and where the program handles Ctrl-C in its own way, nothing
    is changed.
    """
    request = InterruptRequest()
    handler = signal.getsignal(signal.SIGINT)
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not (kept and in_main_thread and handler is signal.default_int_handler):
        yield request
        return

    def note(*_: object) -> None:
        if request.made:
            signal.signal(signal.SIGINT, handler)
            request.repeated = True
            raise KeyboardInterrupt
        request.made = True
        with contextlib.suppress(RuntimeError):  # where the signal came in the middle of a write to the same stream
            log.warning("Ctrl-C: what is being computed is finished and kept, then it stops; Ctrl-C again stops at once")

    signal.signal(signal.SIGINT, note)
    try:
        yield request
    finally:
        signal.signal(signal.SIGINT, handler)
