"""Every kind of computation on a device that is none: nothing meets that may not, and the GPU is not kept waiting."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from make_believe_gpu import MakeBelieveGPU, make_believe_gpu
from small_networks import CLASSES, ChannelShuffle, Concatenations, FunctionalReLU, InPlaceReLU, SqueezeExcite, Untraceable
from torch import nn
from torch.utils.data import TensorDataset

import unitlab
from unitlab import UnitlabError
from unitlab.compute.engine.host_copies import HostCopies, InTurn
from unitlab.compute.engine.torch_state import exact_float32
from unitlab.compute.images.source import ImageSource
from unitlab.compute.sweep import run
from unitlab.compute.sweep.plan import plan_sweep
from unitlab.compute.sweep.request import SweepRequest
from unitlab.compute.sweep.shards import ShardComputation, ShardSums

COUNT, BATCH = 24, 8
NETWORKS = {
    FunctionalReLU: ["conv1", "conv2"], InPlaceReLU: ["conv2"], Concatenations: ["stem"], ChannelShuffle: ["conv"],
    SqueezeExcite: ["conv"], Untraceable: ["conv"],
}  # fmt: skip
PHASES = [
    (run, "plan_sweep", "plan"), (ShardComputation, "begin", "begun"), (InTurn, "step", "batch"),
    (ShardSums, "deliver", "delivery"), (ShardSums, "end", "delivery"), (run, "compared_with_hooks", "proof"),
]  # fmt: skip
# where numbers are added in no fixed order: in the gradient of the margin, which first_order_margin_drop alone is made of, and,
# where a screen chooses pairs, in the gradients of margins and their sums by unit
UNORDERED_IN = {"screen": {"network.py", "scores.py", "suffix.py"}}
# at most this many a batch and layer: which pairs are live, and of which of them subtraction has eaten the digits; bfloat16
# asks for close calls besides. A sweep's last results and largest activations are waited for, all others come while the next
# batch is computed
MOST_WAITS, CLOSE_CALLS, AT_THE_END = 2, 1, 2
SWEEPS = {"verify": 2, "screen": 2}
OWN = 10  # of a network that asks for numbers itself, once an evaluation


@pytest.fixture
def images() -> ImageSource:
    torch.manual_seed(3)
    pictures = TensorDataset(torch.randn(COUNT, 3, 17, 17), torch.arange(COUNT) % CLASSES)
    return unitlab.images(pictures, categories=[f"class {k}" for k in range(CLASSES)])


def network(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(5)
    return kind().eval()


def swept(**options: Any) -> Callable[..., np.ndarray]:
    def predictions(model: nn.Module, images: ImageSource, layers: list[str], device: str, folder: Path) -> np.ndarray:
        found = unitlab.ablate(model, images, layers, device=device, batch_size=BATCH, progress=False, **options)
        return np.concatenate([ds.prediction.values for ds in found.values()])

    return predictions


def verified(model: nn.Module, images: ImageSource, layers: list[str], device: str, folder: Path) -> np.ndarray:
    store = folder / f"{device}.zarr"
    ds = unitlab.ablate(model, images, layers[0], device=device, batch_size=BATCH, progress=False, store=store, units=[0, 2])
    # resumed: the other units
    ds = unitlab.ablate(model, images, layers[0], device=device, batch_size=BATCH, progress=False, store=store)
    assert unitlab.verify(store, model, images, sample=40, device=device).different == 0
    return ds.prediction.values


def grouped(model: nn.Module, images: ImageSource, layers: list[str], device: str, folder: Path) -> np.ndarray:
    groups = {"one": [0], "some": [1, 2, 5], "none": []}
    ds = unitlab.ablate_groups(model, images, layers[0], groups, device=device, batch_size=BATCH, progress=False)
    return ds.prediction.values


def cumulated(model: nn.Module, images: ImageSource, layers: list[str], device: str, folder: Path) -> np.ndarray:
    order = [3, 0, 5, 2]
    ds = unitlab.cumulative(model, images, layers[0], order, device=device, batch_size=BATCH, progress=False)
    return ds.curve_prediction.values


def estimated(model: nn.Module, images: ImageSource, layers: list[str], device: str, folder: Path) -> np.ndarray:
    found = unitlab.estimate(model, images, layers, device=device)
    assert found.seconds > 0 and found.device.startswith(device)
    return np.array([layer.units for layer in found.layers])


def first_three(value: torch.Tensor) -> torch.Tensor:
    return value[:, :3] * 0.5


def coded(model: nn.Module, images: ImageSource, layers: list[str], device: str, folder: Path) -> np.ndarray:
    directions = np.eye(model.get_submodule(layers[0]).out_channels)[:3]
    ds = unitlab.ablate(
        model, images, layers[0], directions=directions, subtract=first_three, device=device, batch_size=BATCH, progress=False
    )
    return ds.prediction.values


def outcome(logits: torch.Tensor, label: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    return logits.softmax(1).gather(1, label[:, None])[:, 0] + image


KINDS: dict[str, Callable[..., np.ndarray]] = {
    "zero": swept(), "mean": swept(ablation="mean"), "resample": swept(ablation="resample"),
    "bfloat16": swept(precision="bfloat16"), "random": swept(basis="random"), "pca": swept(basis="pca"),
    "predicted": swept(labels="predicted"), "verify": verified, "groups": grouped, "cumulative": cumulated,
    "screen": swept(screen=0.01), "codes": coded, "estimate": estimated,
    "outcome": swept(outcome=outcome, top_k=3), "top_k": swept(top_k=3),
}  # fmt: skip


OF_ONE_LAYER = {"verify", "groups", "cumulative", "codes"}


def requested(gpu: MakeBelieveGPU, kind: str) -> Counter[tuple[str, str]]:
    """Events of a kind in the batches and in what follows from them."""
    return gpu.of(kind, "batch") + gpu.of(kind, "delivery")


def per_batch(gpu: MakeBelieveGPU, kind: str, layers: int) -> tuple[float, str]:
    """Events of a kind a batch and layer, and where they come from."""
    found = requested(gpu, kind)
    told = ", ".join(f"{number} {operation} at {where}" for (operation, where), number in found.most_common())
    return sum(found.values()) / max(gpu.entered["begun"], 1) / layers, told


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("of", NETWORKS, ids=lambda of: of.__name__)
def test_what_a_gpu_would_be_asked_for_is_what_it_has(
    of: type[nn.Module], kind: str, images: ImageSource, tmp_path: Path
) -> None:
    model, layers = network(of), NETWORKS[of][: 1 if kind in OF_ONE_LAYER else None]
    expected = KINDS[kind](model, images, layers, "cpu", tmp_path)
    with make_believe_gpu(PHASES) as gpu:
        found = KINDS[kind](model, images, layers, "cuda", tmp_path)
    assert not gpu.of("violation")
    assert {where.partition(":")[0] for _, where in gpu.of("unordered sum")} <= UNORDERED_IN.get(kind, {"network.py"})
    np.testing.assert_array_equal(found, expected)
    more = (CLOSE_CALLS if kind == "bfloat16" else 0) + (OWN if of is Untraceable else 0)
    batches = gpu.entered["begun"]
    sweeps = batches if kind == "estimate" else SWEEPS.get(kind, 1)
    for event, most in (("wait", (MOST_WAITS + more) * batches * len(layers) + AT_THE_END * sweeps), ("upload", 0)):
        number, told = per_batch(gpu, event, len(layers))
        assert sum(requested(gpu, event).values()) <= most, f"{number:.1f} of {event} a batch and layer: {told}"


def in_shards(
    images: ImageSource, device: str, spoil: Callable[[Any], None] = lambda _: None, **options: Any
) -> tuple[list[Any], str]:
    """Shards of one batch, two and none less, and what ends them early; ``spoil`` gets the plan."""
    found: list[Any] = []
    with exact_float32():
        plan = plan_sweep(
            network(FunctionalReLU), images, SweepRequest(["conv1", "conv2"], batch_size=BATCH, **options), device
        )
        spoil(plan)
        computation = ShardComputation(plan, images, plan.replacements(None, COUNT))
        try:
            found += (shard().to_arrays() for shard in computation.shards([(0, 8), (8, 24)], lambda _: None))
        except UnitlabError as error:
            return found, str(error)
    return found, ""


def test_what_comes_a_batch_late_is_what_a_cpu_gives(images: ImageSource) -> None:
    expected, _ = in_shards(images, "cpu")
    with make_believe_gpu([(InTurn, "step", "batch")]) as gpu:
        found, _ = in_shards(images, "cuda")
    assert not gpu.of("violation") and len(found) == 2
    for here, there in zip(expected, found, strict=True):
        assert set(here) == set(there)
        for name in set(here) - {"thumbnails"}:
            np.testing.assert_allclose(there[name], here[name], rtol=1e-3, atol=1e-4, err_msg=name)


@pytest.mark.parametrize(("precision", "last"), [("float32", False), ("bfloat16", True), ("tf32", True)])
def test_maps_are_channels_last_for_reduced_convolutions_alone(precision: str, last: bool, images: ImageSource) -> None:
    torch.manual_seed(5)
    convolutions = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU()]
    model = nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES)).eval()
    options: dict[str, Any] = {"precision": precision, "progress": False}
    with make_believe_gpu() as gpu, exact_float32():
        plan = plan_sweep(model, images, SweepRequest("1", precision=precision), "cuda")
        value = plan.network.site_values(images.at(range(3)), plan.sites)[0]
        assert value.is_contiguous(memory_format=torch.channels_last) == last and value.is_contiguous() != last
        linear = plan_sweep(model, images, SweepRequest("5", precision=precision), "cuda")
        assert linear.network.site_values(images.at(range(3)), linear.sites)[0].is_contiguous()
        found = unitlab.ablate(model, images, "1", device="cuda", **options).prediction
    assert not gpu.of("violation")
    exact = unitlab.ablate(model, images, "1", device="cpu", progress=False)
    np.testing.assert_array_equal(found, exact.prediction)


class OwnWeights(nn.Module):
    """A convolution as a function, of weights that belong to no module of torch's."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.weight = nn.Parameter(torch.randn(CLASSES, 8, 3, 3) / 8)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return nn.functional.conv2d(torch.relu(self.stem(pixels)), self.weight).mean((2, 3))


def test_weights_of_functions_are_contiguous_as_well(images: ImageSource) -> None:
    torch.manual_seed(5)
    model = OwnWeights().eval()
    with make_believe_gpu() as gpu, exact_float32():
        graph = plan_sweep(model, images, SweepRequest("stem"), "cuda").network.graph
        assert graph is not None
        held = [value for value in (*graph.attributes.values(), *graph.constants.values()) if isinstance(value, torch.Tensor)]
        assert len(held) == 2 and all(value.shape == (CLASSES, 8, 3, 3) and value.is_contiguous() for value in held)
        found = unitlab.ablate(model, images, "stem", device="cuda", progress=False).prediction
    assert not gpu.of("violation")
    np.testing.assert_array_equal(found, unitlab.ablate(model, images, "stem", device="cpu", progress=False).prediction)


def test_the_next_batch_is_begun_while_the_host_waits_where_there_is_memory_for_two(images: ImageSource) -> None:
    order: list[str] = []

    def told(plan: Any) -> None:
        real, scores = plan.network.evaluate, plan.layers[0].engine.steps

        def evaluate(*given: Any, **named: Any) -> Any:
            order.append("evaluated")
            return real(*given, **named)

        def steps(*given: Any) -> Any:
            found = yield from scores(*given)
            order.append("ablated")
            return found

        plan.network.evaluate, plan.layers[0].engine.steps = evaluate, steps

    with make_believe_gpu() as gpu:
        found, _ = in_shards(images, "cuda", told)
        few = plan_sweep(network(FunctionalReLU), images, SweepRequest("conv1", batch_size=4096, memory="64 MB"), "cuda")
    assert order[:3] == ["evaluated", "evaluated", "ablated"] and len(found) == 2 and not gpu.of("violation")
    assert few.at_a_time == 1
    order.clear()
    in_shards(images, "cpu", told)
    assert order == ["evaluated", "ablated"] * 3


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_what_is_wrong_with_the_first_images_is_said_first(device: str, images: ImageSource) -> None:
    def spoil(plan: Any) -> None:
        real, calls = plan.network.evaluate, iter(range(3))

        def evaluate(pixels: torch.Tensor, *given: Any, **named: Any) -> Any:
            if (call := next(calls)) == 2:
                raise RuntimeError("the third batch")
            return real(pixels * (torch.nan if call == 1 else 1), *given, **named)

        plan.network.evaluate = evaluate

    with make_believe_gpu() if device == "cuda" else nullcontext():
        found, message = in_shards(images, device, spoil)
    # the shard before is kept
    assert len(found) == 1 and "the network gives NaN or infinite logits" in message


def test_batches_are_halved_where_memory_runs_out_while_others_come(images: ImageSource) -> None:
    def spoil(plan: Any) -> None:
        real = plan.layers[1].engine.steps

        def steps(base: Any, ablated: torch.Tensor) -> Any:
            if len(base.labels) == BATCH and int(base.positions[0]) == BATCH:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return real(base, ablated)

        plan.layers[1].engine.steps = steps

    expected, _ = in_shards(images, "cpu")
    with make_believe_gpu() as gpu:
        found, _ = in_shards(images, "cuda", spoil)
    assert not gpu.of("violation") and len(found) == 2
    for here, there in zip(expected, found, strict=True):
        for name in ("ablation/prediction/conv1", "ablation/prediction/conv2", "units/top_image/conv2", "image_hashes"):
            np.testing.assert_array_equal(there[name], here[name], err_msg=name)


def test_estimate_waits_for_the_device_that_it_computes_on(images: ImageSource) -> None:
    waited: list[Any] = []
    with make_believe_gpu() as gpu:
        torch.cuda.synchronize = waited.append  # what the block puts back
        unitlab.estimate(network(FunctionalReLU), images, "conv2", device="cuda:0")
    assert waited and set(waited) == {torch.device("cuda:0")} and not gpu.of("violation")


def test_estimate_counts_reading_on_a_gpu_where_it_takes_longer_alone(
    images: ImageSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = replace(images, read=lambda position: (time.sleep(0.05), images.read(position))[1])
    found = {}
    for kind, source in (("quick", images), ("slow", slow)):
        with make_believe_gpu():
            found[kind] = unitlab.estimate(network(FunctionalReLU), source, "conv2", device="cuda")
    for said in found.values():
        sweep = said.passes * said.seconds_per_pass
        assert said.seconds == pytest.approx(COUNT * max(sweep, said.seconds_per_read))
    assert found["slow"].seconds >= COUNT * 0.05 > COUNT * found["quick"].seconds_per_read


def test_bfloat16_products_only_where_the_gpu_has_them(images: ImageSource) -> None:
    found = []
    for capability in ((7, 5), (8, 0)):
        with make_believe_gpu() as gpu:
            torch.cuda.get_device_capability = lambda *_, capability=capability: capability  # what the block puts back
            ds = unitlab.ablate(network(FunctionalReLU), images, "conv1", precision="bfloat16", device="cuda", progress=False)
        found.append(ds.prediction.values)
        products = {operation for operation, _ in gpu.of("bfloat16 product")}
        assert bool(products) == (capability == (8, 0)), products
    np.testing.assert_array_equal(*found)


def read_too_early(x: torch.Tensor) -> np.ndarray:
    pinned = torch.zeros(4, 6, pin_memory=True)
    pinned.copy_(x, non_blocking=True)
    return pinned.numpy()


def written_too_early(x: torch.Tensor) -> None:
    pinned = torch.randn(4, 6).pin_memory()
    pinned.to("cuda", non_blocking=True)
    pinned.zero_()


def on_another_stream(x: torch.Tensor, *, waits: bool, told: bool) -> torch.Tensor:
    computing, copying = torch.cuda.current_stream(), torch.cuda.Stream()
    with torch.cuda.stream(copying):
        pixels = torch.randn(4, 6).pin_memory().to("cuda", non_blocking=True)
    if waits:
        computing.wait_stream(copying)
    if told:
        pixels.record_stream(computing)
    return x + pixels


def read_when_there(x: torch.Tensor) -> None:
    found: list[torch.Tensor] = []
    host = HostCopies()
    host.then(found.append, x)
    host.send()
    later = x * 2
    assert not found and bool((later == 2 * x).all())  # which is asked for after the copy, and waited for
    host.deliver()
    torch.testing.assert_close(found[0] * 2, later.cpu())


LONG = torch.long
PLANTED: list[tuple[str, Callable[[torch.Tensor], Any]]] = [
    ("violation", lambda x: x + torch.ones(6)),
    ("violation", lambda x: x.index_select(0, torch.tensor([0, 1]))),
    ("violation", lambda x: x.gather(1, torch.zeros(4, 1, dtype=LONG))),
    ("violation", lambda x: torch.randn(4)[x[:, 0].long() * 0]),
    ("violation", lambda x: x.numpy()),
    ("violation", lambda x: np.asarray(x)),
    ("violation", lambda x: torch.cat([x, torch.zeros(4, 6)])),
    ("violation", lambda x: x @ torch.randn(6, 2)),
    ("violation", lambda x: torch.where(x > 0, x, torch.zeros(4, 6))),
    ("violation", lambda x: torch.addmm(torch.zeros(2), x, torch.zeros(6, 2, device="cuda"))),
    ("wait", lambda x: x.tolist()),
    ("wait", lambda x: bool((x > 0).any())),
    ("wait", lambda x: x[x > 0]),
    ("wait", lambda x: x.cpu()),
    ("wait", lambda x: x.nonzero()),
    ("wait", lambda x: torch.equal(x, x)),
    ("wait", lambda x: torch.zeros(4).copy_(x[:, 0])),
    ("wait", lambda x: torch.cuda.synchronize()),
    ("upload", lambda x: x[[0, 1]]),
    ("upload", lambda x: torch.ones(3).to("cuda")),
    ("upload", lambda x: torch.tensor([1, 2], device="cuda")),
    ("violation", lambda x: read_too_early(x)),
    ("violation", lambda x: written_too_early(x)),
    ("violation", lambda x: on_another_stream(x, waits=False, told=True)),
    ("violation", lambda x: on_another_stream(x, waits=True, told=False)),
    ("async copy", lambda x: on_another_stream(x, waits=True, told=True)),
    ("wait", lambda x: read_when_there(x)),
    ("async copy", lambda x: torch.empty(4, 6, pin_memory=True).copy_(x, non_blocking=True)),
    ("async copy", lambda x: x.copy_(torch.randn(4, 6).pin_memory(), non_blocking=True)),
    ("launch", lambda x: x * torch.tensor(2.0)),
    ("launch", lambda x: x.masked_fill(x > 0, 1.0)),
    ("launch", lambda x: x.to(torch.bfloat16).float()),
    ("launch", lambda x: torch.zeros(4, device=x.device) + x[:, 0]),
]


@pytest.mark.parametrize("place", range(len(PLANTED)))
def test_planted_faults_are_found_and_what_cuda_allows_is_none(place: int) -> None:
    kind, action = PLANTED[place]
    with make_believe_gpu() as gpu:
        x = torch.randn(4, 6).to("cuda")
        gpu.events.clear()
        action(x)
    allowed = {"launch"} if kind == "async copy" else {"launch", "async copy"}
    assert {event.kind for event in gpu.events} - allowed == {kind} - {"launch"}
    assert kind != "launch" or gpu.of("launch")


@pytest.mark.skipif(torch.version.cuda is None, reason="only a CUDA build knows which kernels there are")
def test_an_operation_without_a_kernel_is_found() -> None:
    with make_believe_gpu() as gpu, suppress(NotImplementedError):
        torch.randn(4, 6).to("cuda").to_mkldnn()
    assert any("no CUDA kernel" in operation for operation, _ in gpu.of("violation"))
