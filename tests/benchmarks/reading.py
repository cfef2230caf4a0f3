"""How fast a folder of pictures is read for a network: ``python tests/benchmarks/reading.py FOLDER [THREADS]``.

The least of three readings in batches of 48, in milliseconds an image. The asking thread is the one that a network, or a GPU,
waits for; what readers do is not in its time.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace

from torchvision import datasets, transforms

import unitlab
from unitlab.compute.images.source import ImageSource

TRANSFORM = transforms.Compose(
    [
        transforms.Resize(256),
        transforms.CenterCrop(224),
        transforms.ToTensor(),
        transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    ]
)


def once(source: ImageSource) -> list[float]:
    """Seconds an image by the clock, of all processors, and of the asking thread."""
    clocks = (time.perf_counter, time.process_time, time.thread_time)
    begin = [clock() for clock in clocks]
    spans = (range(first, min(first + 48, len(source))) for first in range(0, len(source), 48))
    for _ in source.stream(spans, thumbnails=True):
        pass
    return [(clock() - start) / len(source) for clock, start in zip(clocks, begin, strict=True)]


def main() -> None:
    folder, *threads = sys.argv[1:]
    for name, source in (
        ("folder", unitlab.images(folder, transform=TRANSFORM)),
        ("ImageFolder", unitlab.images(datasets.ImageFolder(folder, TRANSFORM))),
    ):
        by = replace(source, threads=int(threads[0])) if threads else source
        wall, processors, asking = (1000 * min(taken) for taken in zip(*(once(by) for _ in range(3)), strict=True))
        times = f"processors {processors:.2f} ms, asking thread {asking:.3f} ms"
        print(f"{name}, {by.threads} threads: {1000 / wall:.0f} images/s; {times}")


if __name__ == "__main__":
    main()
