"""How long calls wait that show a bar: ``python tests/benchmarks/waits.py``. Torch runs one thread.

Time by the clock and of the processor. Trained or not, the network's time is the same: ResNet18 has random weights.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torchvision

import unitlab


def timed(what: str, call: Callable[[], object]) -> None:
    began, processor = time.perf_counter(), time.process_time()
    call()
    print(f"{what}: {time.perf_counter() - began:.1f} s, {time.process_time() - processor:.1f} s of the processor", flush=True)


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = torchvision.models.resnet18(weights=None).eval()
    photos = torch.utils.data.TensorDataset(torch.randn(256, 3, 224, 224), torch.arange(256))
    images = unitlab.images(photos, categories=[f"class {k}" for k in range(1000)])
    timed("estimate, vgg_fashion", lambda: unitlab.estimate(unitlab.network("vgg_fashion"), "fashion_mnist", "conv3_2"))
    timed("estimate, resnet18, layer4", lambda: unitlab.estimate(model, images, "layer4"))
    timed("verify, vgg_emoji, 200 pairs", lambda: unitlab.verify("vgg_emoji", sample=200))
    for call in (unitlab.damage, unitlab.correlations, unitlab.describe):
        timed(f"{call.__name__}, vgg_emoji", lambda call=call: call("vgg_emoji"))
    timed("compare, vgg_emoji, resnet_emoji", lambda: unitlab.compare("vgg_emoji", "resnet_emoji"))
    with tempfile.TemporaryDirectory() as folder:
        timed("report, vgg_emoji", lambda: unitlab.report("vgg_emoji", Path(folder) / "vgg_emoji.html"))


if __name__ == "__main__":
    main()
