"""How a sweep tells how far it is, and how Ctrl-C ends it."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqdm.auto import tqdm

__all__ = ["InterruptRequest", "images_bar", "interrupt_after_shard"]

log = logging.getLogger("unitlab")


def images_bar(images: int, *, finished: int, description: str, shown: bool) -> tqdm[Any]:
    """A progress bar over images; rate and time left are those of what is computed now, not of what was ``finished``."""
    # smoothing=0: shards arrive in bursts from several workers, so the rate is the mean since the bar was made
    return tqdm(total=images, initial=finished, unit=" images", smoothing=0, disable=not shown, desc=description)


class InterruptRequest:
    """Whether Ctrl-C was pressed."""

    def __init__(self) -> None:
        self.made = False

    def heed(self) -> None:
        """Stop here where Ctrl-C was pressed."""
        if self.made:
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
        signal.signal(signal.SIGINT, handler)
        request.made = True
        with contextlib.suppress(RuntimeError):  # where the signal came in the middle of a write to the same stream
            log.warning("Ctrl-C: what is being computed is finished and kept, then it stops; Ctrl-C again stops at once")

    signal.signal(signal.SIGINT, note)
    try:
        yield request
    finally:
        signal.signal(signal.SIGINT, handler)
