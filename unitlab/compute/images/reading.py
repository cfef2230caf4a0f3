"""Something read for many positions, in order, ahead of who uses it: by threads, or by a DataLoader's worker processes."""

from __future__ import annotations

import signal
import time
import warnings
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from torch.utils.data._utils import signal_handling

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
    at_once = workers.images_at_once
    chunks = [[int(p) for p in positions[first : first + at_once]] for first in range(0, len(positions), at_once)]
    iterator, failure = None, ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the given loader says itself what torch thinks of it
            iterator = iter(_loader(read, chunks, workers))
            _say_deaths_when_asked(iterator)
        for _ in chunks:
            found = next(iterator)
            if isinstance(found, _Failure):
                failure = found.text
                break
            yield found
    except UnitlabError:
        raise
    except Exception as error:
        failure = (
            f"a worker of the DataLoader failed ({what_it_says(error)}); give a DataLoader "
            "with fewer workers, smaller batches, or num_workers=0"
        )
    finally:
        if iterator is not None:
            # at once: the traceback of an error, or of Ctrl-C, would keep the processes for as long as it is kept
            iterator._shutdown_workers()  # type: ignore[attr-defined]
    if failure:
        raise UnitlabError(failure)


def _loader(read: Callable[[list[int]], Any], chunks: list[list[int]], workers: LoaderWorkers) -> DataLoader[Any]:
    return DataLoader(
        _Chunks(read), batch_sampler=chunks, num_workers=workers.count, collate_fn=_as_it_is,
        prefetch_factor=workers.prefetch_factor, timeout=workers.timeout, worker_init_fn=_Started(workers.worker_init_fn),
        multiprocessing_context=workers.start_method,
        generator=torch.Generator(),  # else the caller's random numbers would depend on it
    )  # fmt: skip


def _say_deaths_when_asked(iterator: Any) -> None:
    """Else torch raises, in a signal handler, wherever the main thread is when a worker dies: in the network, say."""
    signal_handling._remove_worker_pids(id(iterator))
    iterator._worker_pids_set = False


class _Chunks(Dataset[Any]):
    """Reads several positions at a time; what is wrong with them is returned, since torch would rewrite its message."""

    def __init__(self, read: Callable[[list[int]], Any]) -> None:
        self.read = read

    def __getitems__(self, positions: list[int]) -> Any:
        try:
            return self.read(positions)
        except UnitlabError as error:
            return _Failure(str(error))


@dataclass(frozen=True)
class _Failure:
    text: str


class _Started:
    """Called in a worker first: Ctrl-C reaches workers too, and it is for the main process to end them."""

    def __init__(self, own: Callable[[int], object] | None) -> None:
        self.own = own

    def __call__(self, number: int) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if self.own is not None:
            self.own(number)


def _as_it_is(found: Any) -> Any:
    return found
