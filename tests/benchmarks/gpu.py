"""What unitlab does on a GPU, in one run of at most eight minutes: exactness, passes, memory, waits, where the time goes.

    python tests/benchmarks/gpu.py [SECTION ...] [--out FOLDER] [--seconds 440]
    python tests/benchmarks/gpu.py --device cpu --tiny     # the same where there is no GPU: a trial of the script
    python tests/benchmarks/gpu.py --paper                 # what an H100 would take, estimated from the kernels of a few images

Everything is printed as it is found, and kept in FOLDER/report.md. Sections have deadlines, and what is left out for want of
time is named; no section's failure ends the run.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
import time
import traceback
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial, partialmethod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import numpy as np
import torch
import torchvision
from PIL import Image
from torch import Tensor, nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils._pytree import tree_leaves
from torch.utils.data import TensorDataset
from torch.utils.flop_counter import flop_registry
from torchvision import transforms

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "compute"), str(HERE.parents[1])]

import engine  # noqa: E402
from make_believe_gpu import MakeBelieveGPU, OnDevice, make_believe_gpu  # noqa: E402
from oracle import Oracle  # noqa: E402

import unitlab  # noqa: E402
from unitlab.compute.engine.ablation import ABLATIONS, donor_of_image  # noqa: E402
from unitlab.compute.engine.host_copies import InTurn  # noqa: E402
from unitlab.compute.engine.products import ProductByTap  # noqa: E402
from unitlab.compute.engine.torch_state import exact_float32, has_reduced_products  # noqa: E402
from unitlab.compute.images.decoded import DeviceTransform  # noqa: E402
from unitlab.compute.images.reading import Processors  # noqa: E402
from unitlab.compute.images.source import ImageSource  # noqa: E402
from unitlab.compute.sweep.memory import resolved_memory  # noqa: E402
from unitlab.compute.sweep.passes import compute_shards  # noqa: E402
from unitlab.compute.sweep.plan import SweepPlan, plan_sweep  # noqa: E402
from unitlab.compute.sweep.request import SweepRequest  # noqa: E402
from unitlab.compute.sweep.shards import ShardComputation  # noqa: E402
from unitlab.store.shards import HeldShards  # noqa: E402

UNITS = [0, 7, 11, 19]
PRECISIONS = ("float32", "bfloat16", "tf32")
TF32_CASE = ("resnet18", "zero")  # the one of the exact cases that is done in TF32 too
# network, layers, pixels, classes: compared with forward hooks in float64 on the CPU
EXACT = [
    ("resnet18", ["layer3", "layer4"], 64), ("alexnet", ["conv3", "conv5"], 64), ("vgg16", ["conv4_3", "conv5_3"], 32),
    ("resnet50", ["layer3.5.bn3", "layer4"], 64), ("efficientnet_b0", ["features.5.1.block.1", "features.8"], 64),
    ("densenet121", ["features.denseblock4.denselayer16.conv1", "features.norm5"], 64),
]  # fmt: skip
# rows of engine.py, with so many images; what the goal is on an H100, in passes
PASSES = [
    ("vgg16_places-bfloat16", 1024, "1.3"), ("vgg16_places-float32", 1024, "1.7"), ("resnet50-layer4", 4096, "1.1"),
    ("resnet18-layer3", 512, "1.3 × its floor"), ("vgg16_places-tf32", 1024, ""), ("resnet18-layer4", 2048, ""),
    ("alexnet-bfloat16", 2048, ""), ("resnet50-layer3", 64, "1.3 × its floor"),
]  # fmt: skip
# as many files of 256 px as Places365 has to validate with, so many of them different, and those of the smaller network
FILES, DIFFERENT, FEWER, PLACES = 36_500, 3650, 7300, 365
# rows, channels, and rows and columns of the map of 3 × 3 convolutions: those behind ResNet18's layer3 and of smaller networks
CONVOLUTIONS = [(4096, 512, 7), (512, 512, 7), (64, 512, 7), (8192, 256, 7), (8192, 128, 4), (2048, 512, 14)]
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TRANSFORM = transforms.Compose(
    [transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor(), transforms.Normalize(MEAN, DEVIATION)]
)
ON_DEVICE = DeviceTransform(256, 224, MEAN, DEVIATION)
ON_FILES = [
    ("VGG16-Places", lambda _: engine.vgg16_places(), "conv5_3", "bfloat16", FILES),
    ("ResNet18", lambda classes: torchvision.models.resnet18(num_classes=classes).eval(), "layer4", "float32", FEWER),
]
TINY = [("resnet18", "layer4", "float32", 8)]
PROFILED = [
    ("vgg16", "conv5_3", "bfloat16", 512),
    ("resnet50", "layer4", "float32", 1024),
    ("resnet18", "layer3", "float32", 128),
]
# What an H100 is taken to do: operations a second in products, bytes a second of its memory, seconds to ask for a kernel
RATES = {torch.bfloat16: 200e12, torch.float32: 40e12, torch.float64: 30e12}
BANDWIDTH, LAUNCH, MEMORY = 2e12, 6e-6, "40 GB"
# network, layer, precision, images of the sweep, and of the two batches that are counted
ON_PAPER = [
    ("VGG16-Places", engine.vgg16_places, "conv5_3", "bfloat16", 36_500, (2, 4)),
    ("ResNet50", partial(engine.run_in, "resnet50"), "layer4", "float32", 50_000, (2, 4)),
    ("ResNet50", partial(engine.run_in, "resnet50"), "layer3", "float32", 50_000, (1, 2)),
]


@dataclass
class Run:
    """The device, how much time there is, and what was said."""

    device: torch.device
    tiny: bool
    seconds: float
    out: Path
    began: float = field(default_factory=time.perf_counter)
    lines: list[str] = field(default_factory=list)

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    @property
    def precisions(self) -> tuple[str, ...]:
        return PRECISIONS if has_reduced_products(self.device) else PRECISIONS[:2]

    def say(self, text: str) -> None:
        self.lines.append(text)
        print(text, flush=True)
        (self.out / "report.md").write_text("\n".join(self.lines) + "\n")

    def over(self, share: float) -> bool:
        """Whether more than this share of the time is gone."""
        return time.perf_counter() - self.began > share * self.seconds

    def section(self, name: str, work: Callable[[Run, float], None], until: float) -> None:
        if self.over(until):
            self.say(f"\n## {name}: left out for want of time")
            return
        self.say(f"\n## {name} (at {time.perf_counter() - self.began:.0f} s)")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                work(self, until)
        except Exception as error:
            self.say(f"FAILED: {type(error).__name__}: {error}\n{''.join(traceback.format_exc().splitlines(True)[-10:])}")
        if self.on_gpu:
            torch.cuda.empty_cache()


def source_of(pixels: Tensor, classes: int = 1000) -> ImageSource:
    labels = torch.arange(len(pixels)) % classes
    return unitlab.images(TensorDataset(pixels, labels), categories=[f"class {k}" for k in range(classes)])


def small(name: str, pixels: int) -> nn.Module:
    """A torchvision network of twenty classes whose batch norms have seen such images."""
    torch.manual_seed(0)
    model = getattr(torchvision.models, name)(weights=None, num_classes=20).train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.eval()
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(8, 3, pixels, pixels))
    return model.eval()


def machine(run: Run, _: float) -> None:
    name = torch.cuda.get_device_name() if run.on_gpu else "no GPU"
    run.say(f"{name}; torch {torch.__version__}, torchvision {torchvision.__version__}, {torch.get_num_threads()} threads")
    if run.on_gpu:
        run.say(f"free {torch.cuda.mem_get_info()[0] / 1e9:.1f} GB; cuDNN {torch.backends.cudnn.version()}")
    left_out = set(PRECISIONS) - set(run.precisions)
    if left_out:
        run.say(f"this device has no {', '.join(left_out)}, which is left out")
    if run.tiny:
        return
    with exact_float32():
        rates = {kind: engine.matrix_rate(kind, run.device) for kind in (*run.precisions, "float64")}
    run.say("matrix products, TFLOP/s: " + ", ".join(f"{kind} {rate / 1e12:.1f}" for kind, rate in rates.items()))


def convolutions(run: Run, _: float) -> None:
    """Rates of 3 × 3 convolutions in float32: torch's own in either memory format, and products by tap."""
    run.say("| rows, channels, map | contiguous, TFLOP/s | channels_last | products by tap |\n| --- | --- | --- | --- |")
    for rows, channels, size in [(8, 128, 4)] if run.tiny else CONVOLUTIONS:
        weight = torch.randn(channels, channels, 3, 3, device=run.device) / channels
        maps = torch.randn(rows, channels, size, size, device=run.device)
        geometry = dict.fromkeys(("stride", "padding", "dilation"), (1, 1))
        by_tap = ProductByTap(weight, None, geometry, (size, size), (size, size))
        taken = []
        with torch.no_grad(), exact_float32():
            for layout in (torch.contiguous_format, torch.channels_last):
                given, own = (each.contiguous(memory_format=layout) for each in (maps, weight))
                convolution = partial(nn.functional.conv2d, given, own, padding=1)
                taken.append(min(engine.seconds(convolution, run.device) for _ in range(4)))
                taken.append(min(engine.seconds(partial(by_tap, given), run.device) for _ in range(4)))
        rates = [2 * 9 * rows * (channels * size) ** 2 / each / 1e12 for each in (taken[0], taken[2], min(taken[1::2]))]
        run.say(f"| {rows}, {channels}, {size} × {size} | " + " | ".join(f"{rate:.3g}" for rate in rates) + " |")


def exactness(run: Run, until: float) -> None:
    """Predictions that differ from float64 hooks on the CPU: within the noise of float32 hooks, and beyond it."""
    cases = pairs = excused = wrong = hooked = 0
    for name, layers, size in EXACT[:1] if run.tiny else EXACT:
        if run.over(until):
            run.say(f"  {name}: left out for want of time")
            continue
        model, pixels = small(name, size), torch.randn(6, 3, size, size, generator=torch.Generator().manual_seed(1))
        donors, chosen = donor_of_image(len(pixels), 0)
        for ablation in ABLATIONS[:1] if run.tiny else ABLATIONS:
            for precision in run.precisions if (name, ablation) == TF32_CASE else PRECISIONS[:2]:
                found = unitlab.ablate(
                    model, source_of(pixels, 20), layers, units=UNITS, ablation=ablation, precision=precision,
                    device=run.device, progress=False,
                )  # fmt: skip
                for layer, ds in found.items():
                    site = (ds.attrs["site"].partition("#")[0], int(ds.attrs["site_call"]))
                    given = donors[chosen] if ablation == "resample" else None
                    exact, plain = Oracle(model, pixels, [site]).logits(site, UNITS, ablation=ablation, donors=given)
                    close, far = differing(ds.prediction.values, exact, plain)
                    cases, pairs = cases + 1, pairs + ds.prediction.size
                    excused, wrong, hooked = excused + close, wrong + far, hooked + ("hooks" in ds.attrs["strategy"])
                    if far or ds.attrs["verified_different"]:
                        run.say(f"  {name} {layer} {ablation} {precision}: {far} wrong, proof {ds.attrs['verified_different']}")
    run.say(f"{cases} cases, {pairs} pairs: {wrong} wrong, {excused} differ within noise; {hooked} by forward hooks")


def differing(prediction: np.ndarray, exact: Tensor, plain: Tensor) -> tuple[int, int]:
    top = exact.topk(2, dim=2)
    noise = torch.maximum(1e-4 * (exact.amax(2) - exact.amin(2)), 4 * (exact - plain).abs().amax(2))
    differs = exact.gather(2, torch.as_tensor(prediction).long().unsqueeze(2)).squeeze(2) < top.values[..., 0]
    close = top.values[..., 0] - top.values[..., 1] < noise
    return int((differs & close).sum()), int((differs & ~close).sum())


def repeated(run: Run, until: float) -> None:
    """The same sweep twice on the device: what is not the same to the bit, and by how much; and beside the CPU."""
    model, pixels = small("resnet18", 64), torch.randn(64, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    for layer in ("layer4", "layer3"):
        if run.over(until):
            run.say(f"  {layer}: left out for want of time")
            continue
        ablate = partial(unitlab.ablate, model, source_of(pixels, 20), layer, units=UNITS, progress=False)
        first, second, host = ablate(device=run.device), ablate(device=run.device), ablate(device="cpu")
        for name, other in (("again", second), ("on the CPU", host)):
            changed = {
                str(one): float(np.nanmax(np.abs(first[one].values.astype(float) - other[one].values.astype(float))))
                for one in first.data_vars
                if first[one].dtype.kind in "if" and not np.array_equal(first[one].values, other[one].values, equal_nan=True)
            }
            run.say(
                f"{layer}, {name}: " + (", ".join(f"{one} {by:.2g}" for one, by in changed.items()) or "the same to the bit")
            )


def passes(run: Run, until: float) -> None:
    with exact_float32():
        rates = {kind: 1e12 if run.tiny else engine.matrix_rate(kind, run.device) for kind in run.precisions}
    run.say(
        "| row | units | precision | live | passes | must / aim on a CPU | floor | one pass | matrix rate | peak GB | goal |"
    )
    run.say("| --- " * 11 + "|")
    for name, images, goal in PASSES[5:6] if run.tiny else PASSES:
        if engine.ROWS[name].precision not in run.precisions:
            continue
        if run.over(until):
            run.say(f"| {name} | left out for want of time |")
            continue
        row = replace(engine.ROWS[name], images=4 if run.tiny else images)
        line = engine.measure(name, row, run.device, rates, with_peers=False)
        run.say(f"{line} {goal} |")


def planned(run: Run, name: str, layer: str, precision: str, images: int) -> tuple[SweepPlan, ImageSource]:
    size = 64 if run.tiny else 224
    torch.manual_seed(0)
    model = small(name, 64) if run.tiny else engine.run_in(name)
    source = source_of(torch.randn(images, 3, size, size), 20 if run.tiny else 1000)
    asked = resolved_memory(SweepRequest(layer, precision=precision, memory=None), None, run.device)
    return plan_sweep(model, source, asked, run.device), source


def write_pictures(folder: Path, count: int, classes: int, device: torch.device) -> None:
    """JPEG files of 256 px in a folder a class, of noise whose spectrum falls as that of photographs does."""
    reach = torch.fft.fftfreq(256, device=device)
    falls = 1 / (reach[:, None] ** 2 + reach[None] ** 2).sqrt().clamp_min(1 / 256) ** 1.2
    generator = torch.Generator(device).manual_seed(0)
    for k in range(classes):
        (folder / f"class {k:03}").mkdir()

    def write(place: int, picture: np.ndarray) -> None:
        Image.fromarray(picture).save(folder / f"class {place % classes:03}" / f"{place:06}.jpg", quality=85)

    with ThreadPoolExecutor(Processors()) as threads:
        for first in range(0, min(count, DIFFERENT), 256):
            noise = torch.randn(min(256, min(count, DIFFERENT) - first), 3, 256, 256, device=device, generator=generator)
            values = torch.fft.ifft2(torch.fft.fft2(noise + 2 * noise.mean(1, keepdim=True)) * falls).real
            scaled = (values / values.std((2, 3), keepdim=True) * 50 + 120).clamp(0, 255)
            pictures = scaled.to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
            list(threads.map(write, range(first, first + len(pictures)), pictures))
    files = sorted(folder.glob("*/*.jpg"))
    for place in range(len(files), count):
        model = files[place % len(files)]
        os.link(model, model.with_stem(f"{place:06}"))


def from_files(run: Run, until: float) -> None:
    """All of `unitlab.ablate` from JPEG files, its study written, beside reading alone."""
    run.say("| sweep | decode | images | reading alone | all of ablate | ratio | ms an image |")
    run.say("| --- " * 7 + "|")
    with TemporaryDirectory() as scratch:
        folder = Path(scratch) / "pictures"
        folder.mkdir()
        count, classes = (16, 4) if run.tiny else (FILES, PLACES)
        write_pictures(folder, count, classes, run.device)
        for name, network, layer, precision, most in ON_FILES[1:] if run.tiny else ON_FILES:
            model = network(classes)
            for decode, transform in (("cpu", TRANSFORM), ("gpu", ON_DEVICE)):
                if decode == "gpu" and most == FILES:
                    continue
                if run.over(until):
                    run.say(f"| {name}, decode={decode} | left out for want of time |")
                    continue
                some = np.linspace(0, count - 1, min(count, most)).round().astype(int)
                source = unitlab.images(folder, transform=transform).subset(some)
                spans = [range(first, min(first + 128, len(source))) for first in range(0, len(source), 128)]
                alone = engine.seconds(partial(deque, source.stream(spans, pinned=run.on_gpu), 0), run.device)
                sweep = partial(
                    unitlab.ablate, model, unitlab.images(folder, transform=transform).subset(some), layer, precision=precision,
                    device=run.device, progress=False, store=Path(scratch) / f"{name} {decode}",
                )  # fmt: skip
                taken = engine.seconds(sweep, run.device)
                run.say(
                    f"| {name} {layer}, {precision} | {decode} | {len(source):,} | {alone:.1f} s | {taken:.1f} s | "
                    f"{taken / alone:.2f} | {1000 * taken / len(source):.2f} |"
                )


def cases(run: Run, until: float) -> Iterator[tuple[str, str, str, int]]:
    for case in TINY if run.tiny else PROFILED:
        if run.over(until):
            run.say(f"  {case[0]} {case[1]}: left out for want of time")
        else:
            yield case


def waits(run: Run, until: float) -> None:
    """How often the host waits for a batch, as CUDA counts it."""
    for name, layer, precision, images in cases(run, until):
        with exact_float32():
            plan, source = planned(run, name, layer, precision, images)
            few = source.subset(range(min(len(source), plan.batch_size)))
            compute_shards(plan.for_images(len(few)), few, HeldShards(), False)
            with warnings.catch_warnings(record=True) as caught, contextlib.ExitStack() as stack:
                warnings.simplefilter("always")
                if run.on_gpu:
                    torch.cuda.set_sync_debug_mode("warn")
                    stack.callback(torch.cuda.set_sync_debug_mode, "default")
                compute_shards(plan.for_images(len(few)), few, HeldShards(), False)
        places = [(Path(one.filename), one.lineno) for one in caught if "synchroniz" in str(one.message)]
        found = Counter(f"{path.parent.name}/{path.name}:{line}" for path, line in places)
        lines = ", ".join(f"{place} ×{count}" for place, count in found.most_common(12))
        run.say(f"{name} {layer} {precision}: {sum(found.values())} waits a batch of {len(few)}: {lines}")


def profiles(run: Run, until: float) -> None:
    for name, layer, precision, images in cases(run, until):
        with exact_float32():
            plan, source = planned(run, name, layer, precision, images)
            work = engine.sweep(plan, source)
            work()
            whole = engine.seconds(work, run.device)
            with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if run.on_gpu else [])]) as seen:
                engine.seconds(work, run.device)
        events = seen.key_averages()
        kernels = [event for event in events if event.device_type != DeviceType.CPU] if run.on_gpu else events
        busy = sum(event.self_device_time_total for event in kernels) / 1e6
        launches = sum(event.count for event in events if "LaunchKernel" in event.key)
        run.say(f"{name} {layer} {precision}: {whole:.2f} s, the device busy for {busy:.2f} s of it, {launches} kernels")
        order = "self_device_time_total" if run.on_gpu else "self_cpu_time_total"
        for event in sorted(kernels, key=lambda one: -getattr(one, order))[:10]:
            run.say(f"    {getattr(event, order) / 1e3:9.2f} ms {event.count:>7} ×  {event.key[:90]}")


@dataclass
class OnPaper:
    """Operations of products, bytes that kernels read and write, and seconds in which a GPU would do the one or the other."""

    operations: float = 0.0
    bytes: float = 0.0
    seconds: float = 0.0


def counted_by(gpu: MakeBelieveGPU, paper: OnPaper, operation: Callable[..., Any], func: Any, args: Any, kwargs: Any) -> Any:
    """An operation of the make-believe device, and what it costs."""
    before = len(gpu.events)
    out = operation(gpu, func, args, kwargs)
    if any(event.kind == "launch" for event in gpu.events[before:]):
        on = [one for one in tree_leaves((args, kwargs, out)) if isinstance(one, OnDevice)]
        count = flop_registry.get(func.overloadpacket)
        products = 0 if count is None else count(*args, **kwargs, out_val=out)
        moved = sum({id(one.inner): one.nbytes for one in on}.values())
        paper.operations, paper.bytes = paper.operations + products, paper.bytes + moved
        paper.seconds += max(moved / BANDWIDTH, products / RATES.get(on[0].dtype, RATES[torch.float32]))
    return out


def on_paper() -> None:
    """A batch costs c + n·e, which two that are counted tell; a kernel takes as long as its products, or as its bytes."""
    print("| sweep | images a batch | GFLOP, GB an image | kernels, waits a batch | ms an image | host, asking | all images |")
    print("| --- " * 7 + "|")
    for name, network, layer, precision, images, counted in ON_PAPER:
        source = source_of(torch.randn(max(counted), 3, 224, 224), 365 if name.endswith("Places") else 1000)
        found = []
        for count in counted:
            with make_believe_gpu([(InTurn, "step", "batch")]) as gpu, exact_float32():
                plan = plan_sweep(network(), source, SweepRequest(layer, precision=precision, memory=MEMORY), "cuda")
                size, paper = plan.batch_size, OnPaper()
                for one in plan.layers:
                    one.engine.memory = one.engine.memory * count // size  # in as many bites as a whole batch
                few = source.subset(range(count))
                computation = ShardComputation(plan, few, plan.replacements(None, count))
                gpu.events.clear()
                seen = partialmethod(counted_by, paper, MakeBelieveGPU.operation)
                with mock.patch.object(MakeBelieveGPU, "operation", seen):
                    list(computation.shards([(0, count)], lambda _: None))
            found.append((paper, sum(gpu.of("launch", "batch").values()), sum(gpu.of("wait", "batch").values())))
        (less, _, _), (more, kernels, waits) = found
        fewer, step = counted[0], counted[1] - counted[0]
        each = {of: (vars(more)[of] - vars(less)[of]) / step for of in vars(more)}
        seconds = each["seconds"] + (less.seconds - fewer * each["seconds"]) / size
        asking = kernels * LAUNCH / size
        print(
            f"| {name} {layer}, {precision} | {size} | {each['operations'] / 1e9:.1f}, {each['bytes'] / 1e9:.2f} | "
            f"{kernels}, {waits} | {1000 * seconds:.2f} | {1000 * asking:.2f} | "
            f"{images:,}: {images * max(seconds, asking):.0f} s |",
            flush=True,
        )


# what is worth most first; a section that ends early gives its time to the next ones
SECTIONS = {
    "machine": ("The machine", machine, 0.1),
    "convolutions": ("Convolutions of small maps", convolutions, 0.15),
    "passes": ("Passes, images in memory", passes, 0.35),
    "files": ("From files", from_files, 0.65),
    "exactness": ("Exactness", exactness, 0.9),
    "repeated": ("A repetition, and the CPU", repeated, 0.95),
    "waits": ("Waits", waits, 1.0),
    "profiles": ("Profiles", profiles, 1.0),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("sections", nargs="*", choices=[*SECTIONS, []], help="default all")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small sizes, to try the script itself")
    parser.add_argument("--paper", action="store_true", help="estimates from counts, without a GPU")
    parser.add_argument("--out", type=Path, default=Path())
    parser.add_argument("--seconds", type=float, default=440, help="nothing new begins after this many")
    given = parser.parse_args()
    if given.paper:
        on_paper()
        return
    if given.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("torch sees no GPU; --device cpu --tiny tries the script")
    given.out.mkdir(parents=True, exist_ok=True)
    logging.getLogger("unitlab").setLevel(logging.ERROR)  # random weights recognise nothing
    run = Run(torch.device(given.device), given.tiny, given.seconds, given.out)
    for name, (title, work, until) in SECTIONS.items():
        if name in (given.sections or SECTIONS):
            run.section(title, work, until)
    run.say(f"\nended after {time.perf_counter() - run.began:.0f} s")


if __name__ == "__main__":
    main()
