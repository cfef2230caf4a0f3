"""Products in bfloat16 and TF32: TF32 on a device that is none, which rounds as TF32 does where torch is set to it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from make_believe_gpu import make_believe_gpu
from oracle import Oracle, assert_same_predictions
from small_networks import CLASSES, SITES, ChannelShuffle, FunctionalReLU, SqueezeExcite, Windows
from test_exactness import hand_written_network, settled, source_of
from torch import Tensor, nn

import unitlab
from unitlab import UnitlabError
from unitlab.compute.engine import reduced_precision
from unitlab.compute.engine.ablation import Pairs
from unitlab.compute.engine.reduced_precision import CLOSE_CALL, ReducedReplay
from unitlab.compute.engine.replay import AblatedBatch
from unitlab.compute.engine.torch_state import exact_float32
from unitlab.compute.sweep.plan import plan_sweep
from unitlab.compute.sweep.request import SweepRequest

QUIET: dict[str, Any] = {"device": "cuda", "progress": False}


@pytest.fixture(autouse=True)
def few_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    """The study's own proof kept short: the tests compare with their own oracle, or plant what it would find."""
    monkeypatch.setattr("unitlab.compute.sweep.proof.MOST_VERIFIED", 1)


class Block(nn.Module):
    """Batch norm behind convolutions, called twice, and behind what is none."""

    def __init__(self, affine: bool = True) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)
        self.norm, self.alone = nn.BatchNorm2d(8, affine=affine), nn.BatchNorm2d(8)
        self.drop, self.conv3, self.conv4 = nn.Dropout(), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 6, 3)
        self.fc = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.alone(self.norm(self.conv2(self.conv1(x).relu())))
        x = self.norm(self.conv3(x)).relu()
        return self.fc(self.drop(self.conv4(x)).mean((2, 3)))


@pytest.mark.parametrize("kind", [Block, ChannelShuffle, SqueezeExcite, Windows])
def test_tf32_gives_the_predictions_of_hooks(kind: type[nn.Module]) -> None:
    model, pixels = hand_written_network(kind, 16, torch.float32)
    layer = SITES.get(kind, ("conv1",))[0]
    with make_believe_gpu() as gpu:
        ds = unitlab.ablate(model, source_of(pixels, CLASSES), layer, precision="tf32", **QUIET)
    # the unablated network, exact evaluations and the proof are in float32
    assert {where.partition(":")[0] for _, where in gpu.of("tf32 product")} == {"reduced_precision.py"}
    assert ds.attrs["verified_different"] == 0 and ds.attrs["precision"] == "tf32"
    site, numbers = (ds.attrs["site"].partition("#")[0], int(ds.attrs["site_call"])), ds.unit.values.tolist()
    logits = Oracle(model, pixels, [site]).logits(site, numbers, dim=ds.attrs["unit_dim"])
    assert_same_predictions(ds.prediction.values, numbers, *logits)


class Twins(nn.Module):
    """Every class has a twin whose logit is all but its own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 16, 3, padding=1)
        self.fc1, self.fc2 = nn.Linear(16 * 9, 32), nn.Linear(32, 2 * CLASSES)
        with torch.no_grad():
            self.fc2.weight[CLASSES:] = self.fc2.weight[:CLASSES] * (1 + 2e-3 * torch.randn(CLASSES, 32))
            self.fc2.bias[CLASSES:] = self.fc2.bias[:CLASSES]

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.max_pool2d(self.conv1(x).relu(), 5)
        return self.fc2(self.fc1(self.conv2(x).relu().flatten(1)).relu())


def test_close_calls_are_told_by_a_bound_and_a_smaller_one_would_not_do(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model, source = Twins().eval(), source_of(torch.randn(24, 3, 17, 17), 2 * CLASSES)

    def predictions(precision: str, bound: float) -> np.ndarray:
        monkeypatch.setattr(reduced_precision, "CLOSE_CALL", bound)
        with make_believe_gpu():
            return unitlab.ablate(model, source, "conv1", precision=precision, **QUIET).prediction.values

    expected = predictions("float32", CLOSE_CALL)
    for precision in ("bfloat16", "tf32"):
        np.testing.assert_array_equal(predictions(precision, CLOSE_CALL), expected)
        assert (predictions(precision, 0.0) != expected).any()


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("precision", ["bfloat16", "tf32"])
def test_batch_norm_is_part_of_the_weights_of_changes(affine: bool, precision: str) -> None:
    torch.manual_seed(0)
    model = settled(Block(affine), 17)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) / 5)
    pixels = torch.randn(4, 3, 17, 17)
    plan = plan_sweep(model, source_of(pixels, CLASSES), SweepRequest("conv1", precision=precision), "cpu")
    engine: Any = plan.layers[0].engine
    replay: ReducedReplay = engine.replay
    targets = {str(node.target) for node in replay.handed_on}
    assert "norm" in targets and "drop" in targets and "alone" not in targets and len(replay.products) == 3
    calls: list[tuple[AblatedBatch, Pairs]] = []
    replay.steps = lambda batch, pairs, at_once: calls.append((batch, pairs)) or iter(())  # type: ignore
    labels = torch.zeros(len(pixels), dtype=torch.long)
    found = plan.network.evaluate(pixels, labels, plan.sites, plan.needed, first_order=False)
    with torch.no_grad():
        engine.evaluate(found.baseline, torch.zeros(1, 8, 1, 1))
        ((batch, pairs),) = calls
        expected, got = replay.exact.logits(batch, pairs), replay.logits(batch, pairs)
    moved = float((expected - found.logits[pairs.images]).abs().max())
    assert float((expected - got).abs().max()) < (2e-2 if precision == "bfloat16" else 1e-5) * moved


def test_tf32_is_refused_where_there_is_none() -> None:
    model, source = FunctionalReLU().eval(), source_of(torch.randn(4, 3, 17, 17), CLASSES)
    for call in (unitlab.ablate, unitlab.estimate):
        with pytest.raises(UnitlabError, match=r"precision='tf32' on the device 'cpu'.* capability 8.0 .*give .*'bfloat16'"):
            call(model, source, "conv1", precision="tf32", device="cpu")
        with make_believe_gpu(), pytest.raises(UnitlabError, match="'cuda', which has no TF32"):
            torch.cuda.get_device_capability = lambda *_: (7, 5)  # what the block puts back
            call(model, source, "conv1", precision="tf32", device="cuda")


def test_torch_is_as_before_behind_a_product() -> None:
    model, source = FunctionalReLU().eval(), source_of(torch.randn(4, 3, 17, 17), CLASSES)
    switches: list[Any] = [torch.backends.cuda.matmul, torch.backends.cudnn.conv]  # type: ignore[attr-defined]
    with exact_float32():
        engine: Any = plan_sweep(model, source, SweepRequest("conv1", precision="tf32"), "cpu").layers[0].engine
        for product in engine.replay.products.values():
            with pytest.raises(TypeError):
                product(None)
        assert [where.fp32_precision for where in switches] == ["ieee", "ieee"]
