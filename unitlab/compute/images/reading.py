"""Something read for many positions, in order, ahead of who uses it, by threads; where images go that are read."""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cache
from queue import SimpleQueue
from threading import Thread
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from unitlab.compute.images.thumbnails import small_tensors

T = TypeVar("T")
Job = TypeVar("Job")
Kind = tuple[torch.Size, torch.dtype]  # of an image


class Processors(int):
    """How many processors this process may use; unpickled, as many as the process there may."""

    def __new__(cls) -> Processors:
        return super().__new__(cls, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)

    def __reduce__(self) -> tuple[type[Processors], tuple[()]]:
        return Processors, ()


LAST_READ_SECONDS = 1.0  # how long the end of the reading waits for what is being read
ALIGNED = 64  # bytes
# Whether torch has threads by the thread: else each reader would have its own sixteen, say, which take half as much processor
# time again to read a photograph.
ONE_EACH = "parallel backend: OpenMP" in torch.__config__.parallel_info()


@dataclass(frozen=True)
class ImageBatch:
    """Images as a float tensor (image, channel, row, column), their positions, and thumbnails where they are asked for.

    ``hashes``, uint8 (image, byte=32), are those of `content_hash`. In pinned batches `decoded.DecodedImages` may stand for the
    pixels, which the network's ``ready`` takes.
    """

    pixels: Tensor
    positions: np.ndarray
    thumbnails: list[np.ndarray | None]
    hashes: np.ndarray


class ReadImage(NamedTuple):
    """An image that was read; ``pixels`` is None where they are in their batch already."""

    pixels: Tensor | None
    thumbnail: np.ndarray | None
    hash: bytes


class BatchInReading:
    """A batch as one tensor, in which each image has its place whoever reads it; where there is room, see `make_room`."""

    def __init__(self, images: int, *, pinned: bool) -> None:
        self.images, self.pinned = images, pinned
        self.pixels: Tensor | None = None

    def make_room(self, shape: torch.Size, dtype: torch.dtype) -> None:
        """Make the tensor; pinned memory torch gives again when no copy reads it any more."""
        if self.pixels is not None:
            return
        if self.pinned:
            self.pixels = torch.empty((self.images, *shape), dtype=dtype, pin_memory=True)
            return
        # numpy asks for large pages, whose first use costs half of what small ones cost; aligned as torch would
        count = self.images * shape.numel() * dtype.itemsize
        room = np.empty(count + ALIGNED, np.uint8)
        start = -room.ctypes.data % ALIGNED
        self.pixels = torch.from_numpy(room[start : start + count]).view(dtype).view(self.images, *shape)

    def put(self, place: int | slice, images: Tensor) -> None:
        assert self.pixels is not None
        if self.pinned and images.dtype != torch.bfloat16:
            # by one thread: others of torch's own would take processors from those who read
            np.copyto(self.pixels[place].numpy(), images.numpy())
        else:
            self.pixels[place].copy_(images)

    def taken(self) -> Tensor:
        """The batch, which is not held here any more."""
        found, self.pixels = self.pixels, None
        assert found is not None
        return found


def content_hash(image: Tensor, transform: str = "") -> bytes:
    """SHA-256 of an image's type, shape and values, and of what is still to be done to it."""
    digest = hashlib.sha256(_kind_text(image.dtype, image.shape) + transform.encode())
    digest.update(image.contiguous().view(torch.uint8).numpy().data)
    return digest.digest()


def put_tensors(tensors: list[Any], kind: Kind | None, batch: BatchInReading, place: int, small: bool) -> list[ReadImage]:
    """Put tensors, which are images already, into a batch that has room; none, if anything is wrong with any of them."""
    assert batch.pixels is not None
    if any(type(one) is not Tensor or (one.shape, one.dtype) != kind for one in tensors):
        return []
    with torch.no_grad():
        pixels = torch.stack(tensors, out=batch.pixels[place : place + len(tensors)])
        if not math.isfinite(pixels.sum().item()):
            return []
        made = small_tensors(pixels) if small else [None] * len(tensors)
        return [ReadImage(None, small_one, content_hash(one)) for small_one, one in zip(made, tensors, strict=True)]


@cache
def _kind_text(dtype: torch.dtype, shape: torch.Size) -> bytes:
    return f"{dtype} {tuple(shape)} ".encode()


def read_ahead(
    read: Callable[[Job], T], jobs: Iterable[Job], threads: int, ahead: Callable[[], int] | None = None
) -> Generator[T, None, None]:
    """``read`` of each job in order, by ``threads`` ``ahead()`` jobs ahead (default 4 each); with none, by who asks."""
    if not threads:
        yield from map(read, jobs)
        return
    wanted: SimpleQueue[tuple[Future[T], Job] | None] = SimpleQueue()
    ready: SimpleQueue[None] = SimpleQueue()
    # daemons: a read that hangs, as of a network drive, must not hold up Ctrl-C or the end of the process
    readers = [Thread(target=_serve, args=(read, wanted, ready), daemon=True, name="unitlab reader") for _ in range(threads)]
    own_threads = torch.get_num_threads()
    for reader in readers:
        reader.start()
    waiting: deque[Future[T]] = deque()
    try:
        for _ in readers:
            ready.get()
        if ONE_EACH:
            torch.set_num_threads(own_threads)  # for whatever thread begins later
        for job in jobs:
            waiting.append(Future())
            wanted.put((waiting[-1], job))
            while len(waiting) > (4 * threads if ahead is None else ahead()):
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


def _serve(read: Callable[[Job], T], wanted: SimpleQueue[tuple[Future[T], Job] | None], ready: SimpleQueue[None]) -> None:
    if ONE_EACH:
        torch.set_num_threads(1)
        torch.get_num_threads()  # takes it over: what is set for all when a thread first computes is its own from then on
    ready.put(None)
    while (job := wanted.get()) is not None:
        future, asked = job
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(read(asked))
            except BaseException as error:
                future.set_exception(error)
