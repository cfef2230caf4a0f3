"""Something read for many positions, in order, ahead of who uses it: by threads, or by a DataLoader's worker processes."""

from __future__ import annotations

import signal
import time
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from threading import Thread, current_thread, main_thread
from types import FrameType
from typing import Any, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader

from unitlab.errors import UnitlabError, what_it_says

T = TypeVar("T")

LAST_READ_SECONDS = 1.0  # how long the end of the reading waits for what is being read


@dataclass(frozen=True)
class LoaderWorkers:
    """Worker processes as a given DataLoader has them; ``images_at_once`` is its batch size."""

    count: int
    images_at_once: int
    prefetch_factor: int | None
    timeout: float
    start_method: str | None
    worker_init_fn: Callable[[int], object] | None


def loader_workers(loader: DataLoader[Any]) -> LoaderWorkers | None:
    """The workers of a DataLoader, or None where it has none."""
    if loader.num_workers == 0:
        return None
    context = loader.multiprocessing_context
    return LoaderWorkers(
        loader.num_workers, getattr(loader.batch_sampler, "batch_size", None) or 1, loader.prefetch_factor, loader.timeout,
        None if context is None else context.get_start_method(), loader.worker_init_fn,
    )  # fmt: skip


def read_ahead(
    read: Callable[[int], T], positions: Sequence[int] | np.ndarray, threads: int, ahead: int
) -> Generator[T, None, None]:
    """``read`` of each position, by ``threads`` that are ``ahead`` positions ahead; with none, by who asks."""
    if not threads:
        yield from (read(int(position)) for position in positions)
        return
    wanted: SimpleQueue[tuple[Future[T], int] | None] = SimpleQueue()
    # daemons: a read that hangs, as of a network drive, must not hold up Ctrl-C or the end of the process
    readers = [Thread(target=_serve, args=(read, wanted), daemon=True, name="unitlab reader") for _ in range(threads)]
    for reader in readers:
        reader.start()
    waiting: deque[Future[T]] = deque()
    try:
        for position in positions:
            waiting.append(Future())
            wanted.put((waiting[-1], int(position)))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
        for _ in readers:
            wanted.put(None)
        until = time.monotonic() + LAST_READ_SECONDS
        for reader in readers:
            reader.join(max(0.0, until - time.monotonic()))


def _serve(read: Callable[[int], T], wanted: SimpleQueue[tuple[Future[T], int] | None]) -> None:
    while (job := wanted.get()) is not None:
        future, position = job
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(read(position))
            except BaseException as error:
                future.set_exception(error)


def read_by_workers(
    read: Callable[[list[int]], T], positions: Sequence[int] | np.ndarray, workers: LoaderWorkers
) -> Generator[T, None, None]:
    """``read`` of the positions, ``images_at_once`` together, by worker processes.

    Raises
    ------
    UnitlabError
        What ``read`` raises in a worker; workers that cannot be started, or that die.
    """
    iterator, handler = None, None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the given loader says itself what torch thinks of it
            loader: DataLoader[Any] = DataLoader(
                [int(position) for position in positions],  # type: ignore[arg-type]
                batch_size=workers.images_at_once, num_workers=workers.count, collate_fn=partial(_read_or_error, read),
                prefetch_factor=workers.prefetch_factor, timeout=workers.timeout,
                worker_init_fn=partial(_start, workers.worker_init_fn), multiprocessing_context=workers.start_method,
                generator=torch.Generator(),  # else the caller's random numbers would depend on it
            )  # fmt: skip
            iterator = iter(loader)
        handler = _deaths_said_when_asked()
        for found in iterator:
            if isinstance(found, UnitlabError):
                raise found
            yield found
    except BaseException as error:
        # torch ends the processes with the iterator, which its frames would hold for as long as the traceback is kept
        traceback.clear_frames(error.__traceback__)
        if isinstance(error, UnitlabError) or not isinstance(error, Exception):
            raise
        raise UnitlabError(
            f"a worker of the DataLoader failed ({what_it_says(error)}); give a DataLoader "
            "with fewer workers, smaller batches, or num_workers=0"
        ) from error
    finally:
        iterator = None
        if handler is not None:
            signal.signal(signal.SIGCHLD, handler)


def _deaths_said_when_asked() -> Callable[[int, FrameType | None], Any] | None:
    """Torch raises in a signal handler, wherever the main thread is when a worker dies, in the network, say: that handler.

    It is kept from raising until it is handed back; the reading notices deaths by itself.
    """
    told = signal.getsignal(signal.SIGCHLD) if hasattr(signal, "SIGCHLD") and current_thread() is main_thread() else None
    if not callable(told):
        return None

    def untold(number: int, frame: FrameType | None) -> None:
        with suppress(RuntimeError):
            told(number, frame)

    signal.signal(signal.SIGCHLD, untold)
    return told


def _read_or_error(read: Callable[[list[int]], Any], positions: list[int]) -> Any:
    """What is read; or what is wrong with it, since torch would rewrite the message of what is raised."""
    try:
        return read(positions)
    except UnitlabError as error:
        return UnitlabError(str(error))  # without its traceback, which packages such as tblib send along


def _start(own: Callable[[int], object] | None, number: int) -> None:
    """Called in a worker first: Ctrl-C reaches workers too, and it is for the main process to end them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if own is not None:
        own(number)
