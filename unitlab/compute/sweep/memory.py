"""How much memory a sweep may take where nobody says so, and what is done where it runs out."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from unitlab.compute.engine.host_copies import InTurn, Steps
from unitlab.compute.engine.torch_state import choose_device, out_of_memory
from unitlab.compute.images.reading import ImageBatch
from unitlab.compute.images.source import ImageSource
from unitlab.compute.sweep.request import LEAST_MEMORY, SweepRequest
from unitlab.errors import UnitlabError
from unitlab.files import bytes_text
from unitlab.store.shards import unfinished_fingerprint

log = logging.getLogger("unitlab")
T = TypeVar("T")

SHARE = 1 / 2  # of what is free: the network comes on top, and what libraries take for themselves

# where Linux tells the limit of a container, in its second version of that and in its first
CONTAINER = (
    ("/sys/fs/cgroup", ("memory.max", "memory.current"), "inactive_file"),
    ("/sys/fs/cgroup/memory", ("memory.limit_in_bytes", "memory.usage_in_bytes"), "total_inactive_file"),
)


def resolved_memory(request: SweepRequest, store: str | Path | None, device: Any, *, workers: bool = False) -> SweepRequest:
    """A request with ``memory="auto"`` in bytes: those of the unfinished sweep beside a store, or a share of what is free now.

    None is "auto" on a GPU: 2 GB hold 24 images of VGG16 at a time, and an H100 is quickest with 256.

    Raises
    ------
    UnitlabError
        Workers are to compute, each of which has memory of its own; a machine that does not tell what is free.
    """
    if request.memory is None:
        on_gpu = not workers and choose_device(device, request.precision).type == "cuda"
        request = replace(request, memory="auto" if on_gpu else "2 GB")
    if request.memory != "auto":
        return request
    if workers:
        raise UnitlabError(
            "memory='auto' asks the machine that this process runs on, and Dask workers compute; give what each of them may "
            "take, such as memory='8 GB'"
        )
    chosen = choose_device(device, request.precision)
    now = max(LEAST_MEMORY, int(free_memory(chosen) * SHARE))
    begun = None if store is None else unfinished_fingerprint(store).get("memory")
    memory, of = (now, f"half of what is free on {chosen}") if begun is None else (int(begun), "as the unfinished sweep has it")
    log.info("memory='auto': %s, %s", bytes_text(memory), of)
    return replace(request, memory=memory, free=min(now, memory))


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a device: of a CPU what processes may take, within the limit of its container."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    found = []
    with contextlib.suppress(OSError):
        found.append(1024 * _numbers(Path("/proc/meminfo"))["MemAvailable:"])
    if not found and hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2)  # what is free is not told everywhere
    for folder, names, cached in CONTAINER:
        with contextlib.suppress(OSError, ValueError):
            limit, used = (int((Path(folder) / name).read_text()) for name in names)
            # what was read of files is let go of when memory is short
            found.append(limit - used + _numbers(Path(folder) / "memory.stat")[cached])
    if not found:
        raise UnitlabError("memory='auto': this machine does not tell how much is free; give an amount, such as memory='2 GB'")
    return min(found)


def _numbers(path: Path) -> dict[str, int]:
    """Names and numbers of a file that has one of each a line."""
    return {name: int(number) for name, number, *_ in (line.split() for line in path.read_text().splitlines())}


def in_halves(work: Callable[[ImageBatch], T], batch: ImageBatch, source: ImageSource) -> Iterator[T]:
    """`halves_in_steps` of what is done in one."""

    def steps(images: ImageBatch) -> Steps[T]:
        yield from ()
        return work(images)

    return (found for found in halves_in_steps(steps, batch, source) if found is not None)


def halves_in_steps(
    work: Callable[[ImageBatch], Steps[T]], batch: ImageBatch, source: ImageSource, before: InTurn | None = None
) -> Generator[T | None, None, None]:
    """``work`` of a batch at once or, where a GPU's memory runs out, of its halves, or theirs, in their order.

    None stands between steps. What was begun ``before`` holds memory, and is finished first.

    Raises
    ------
    UnitlabError
        The network fails on some images, which are named; one image does not fit.
    """
    waiting = [batch]
    while waiting:
        images = waiting.pop()
        try:
            found = yield from work(images)
        except Exception as error:
            if isinstance(error, UnitlabError):
                raise
            if not out_of_memory(error):
                ids = [source.ids[position] for position in images.positions[:3]]
                raise UnitlabError(f"the network failed on images {ids} …: {type(error).__name__}: {error}") from error
            # in the next turns, when the error is gone, which holds on to the memory of what failed
            if before is not None and not before.done:
                waiting.append(images)
            elif len(images.positions) == 1:
                raise UnitlabError("one image does not fit into the device's memory; compute on 'cpu'") from error
            else:
                half = len(images.positions) // 2
                log.warning("out of memory: going on with batches of %d images", half)
                waiting += [_part(images, slice(half, None)), _part(images, slice(half))]
        else:
            yield found
            continue
        yield None
        if before is not None:
            before.finish()


def _part(images: ImageBatch, some: slice) -> ImageBatch:
    return ImageBatch(images.pixels[some], images.positions[some], images.thumbnails[some], images.hashes[some])
