"""Networks in wrappers, in half precision, with hooks, or that cannot be copied or looked into."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import xarray as xr
from oracle import assert_exact
from small_networks import CLASSES
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.utils.data import TensorDataset

import unitlab
from unitlab import UnitlabError
from unitlab.compute.images.source import ImageSource

COUNT = 24


def source() -> ImageSource:
    torch.manual_seed(3)
    pictures = TensorDataset(torch.randn(COUNT, 3, 17, 17), torch.arange(COUNT) % CLASSES)
    return unitlab.images(pictures, categories=[f"class {k}" for k in range(CLASSES)])


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.conv1, self.norm, self.relu = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()
        self.conv2, self.fc = nn.Conv2d(8, 10, 3), nn.Linear(10, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv2(self.relu(self.norm(self.conv1(x)))))
        return self.fc(x.mean((2, 3)))


def ablate(model: nn.Module, layer: str = "conv1", **options: Any) -> xr.Dataset:
    return unitlab.ablate(model, source(), layer, progress=False, device="cpu", **options)


def assert_right(model: nn.Module, layer: str, reference: nn.Module | None = None, **options: Any) -> xr.Dataset:
    """The study of a network, which is that of the reference by float64 hooks."""
    found = ablate(model, layer, **options)
    reference = copy.deepcopy(model).eval() if reference is None else reference
    units = found.unit.values.tolist()
    assert_exact(reference, source().at(range(COUNT)), layer, 0, units, found.prediction.values)
    assert found.attrs["verified_different"] == 0
    assert unitlab.verify(found, model, source(), sample=32, device="cpu").different == 0
    return found


@pytest.mark.parametrize(
    ("wrap", "said"),
    [
        (nn.DataParallel, "DataParallel unwrapped"),
        (lambda model: nn.DataParallel(nn.DataParallel(model)), "DataParallel unwrapped"),
        (torch.compile, "OptimizedModule unwrapped"),
    ],
)
def test_wrappers_are_taken_off(wrap: Callable[[nn.Module], nn.Module], said: str) -> None:
    found = assert_right(wrap(Small().eval()), "conv1", Small().eval())
    expected = ablate(Small().eval())
    assert found.attrs["prepared"] == said and found.attrs["fingerprint_weights"] == expected.attrs["fingerprint_weights"]
    xr.testing.assert_equal(found, expected)
    with pytest.raises(UnitlabError, match="Did you mean 'conv1'"):
        ablate(wrap(Small().eval()), "module.conv1")


def test_a_network_that_compiles_itself() -> None:
    model = Small().eval()
    model.compile()
    assert assert_right(model, "conv1", Small().eval()).attrs["prepared"] == "compile() undone"
    assert model._compiled_call_impl is not None


def test_a_forward_that_is_compiled() -> None:
    @torch.compile(backend="eager")
    def compiled(x: Tensor, layer: nn.Module) -> Tensor:
        return F.relu(layer(x))

    class Compiled(Small):
        def forward(self, x: Tensor) -> Tensor:
            return self.fc(compiled(compiled(x, self.conv1), self.conv2).mean((2, 3)))

    class Decorated(Compiled):
        @torch.compile(backend="eager")
        def forward(self, x: Tensor) -> Tensor:
            return self.fc(F.relu(self.conv2(F.relu(self.conv1(x)))).mean((2, 3)))

    class Plain(Small):
        def forward(self, x: Tensor) -> Tensor:
            return self.fc(F.relu(self.conv2(F.relu(self.conv1(x)))).mean((2, 3)))

    for model in (Compiled().eval(), Decorated().eval()):
        with torch.no_grad():
            model(torch.randn(4, 3, 17, 17))
        for layer in ("conv1", "conv2"):
            assert_right(model, layer, Plain().eval())


def test_a_compiled_part_is_taken_out_of_its_wrapper() -> None:
    model = Small().eval()
    model.conv1 = torch.compile(model.conv1)
    model.conv2 = nn.DataParallel(model.conv2)
    for layer in ("conv1", "conv2"):
        found = assert_right(model, layer, Small().eval())
        assert found.attrs["prepared"] == "DataParallel unwrapped, OptimizedModule unwrapped"
    assert type(model.conv1).__name__ == "OptimizedModule"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_converted_in_the_copy(dtype: torch.dtype) -> None:
    model = Small().eval().to(dtype)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = assert_right(model, "conv1", copy.deepcopy(model).float())
    assert found.attrs["prepared"] == f"{str(dtype)[6:]} converted to float32"
    assert all(
        value.dtype == before[name].dtype and torch.equal(value, before[name]) for name, value in model.state_dict().items()
    )
    # of the weights as they are, so that the study is told from one of the network in float32
    assert found.attrs["fingerprint_weights"] != ablate(model.float()).attrs["fingerprint_weights"]


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_networks_that_cannot_be_looked_into_say_what_to_give() -> None:
    lazy = nn.Sequential(nn.LazyConv2d(4, 3), nn.Flatten(), nn.LazyLinear(CLASSES))
    scripted = torch.jit.script(Small().eval())
    inside = nn.Sequential(torch.jit.trace(Small().eval(), torch.zeros(1, 3, 17, 17)))
    packed = Small()
    packed.fc.weight = nn.Parameter(torch.zeros(CLASSES, 10, dtype=torch.int8), requires_grad=False)
    with torch.device("meta"):
        empty = Small()
    exported = torch.export.export(Small().eval(), (torch.zeros(2, 3, 17, 17),))
    cases = [
        (lazy, "is lazy and has no shape yet; run the network once"),
        (scripted, r"TorchScript\).*the network that it was made of"),
        (inside, r"'0' of the network is a TopLevelTracedModule \(TorchScript"),
        (packed, r"'fc\.weight' of the network is quantised \(torch\.int8\)"),
        (empty, "meta device and has no values; load its weights"),
        (exported, "model is a ExportedProgram; give a torch.nn.Module"),
    ]
    for model, message in cases:
        with pytest.raises(UnitlabError, match=message):
            ablate(model)  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated", "ignore:.*quantize_dynamic", "ignore:.*reduce_range")
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_quantised_layers_say_what_to_give() -> None:
    model = torch.ao.quantization.quantize_dynamic(Small().eval(), {nn.Linear}, dtype=torch.qint8)
    with pytest.raises(UnitlabError, match=r"'fc' of the network is quantised \(Linear\); give the network as it was before"):
        ablate(model)


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
def test_the_old_weight_norm() -> None:
    model = Small()
    for name in ("conv1", "conv2"):
        setattr(model, name, nn.utils.weight_norm(getattr(model, name)))
    with torch.no_grad():
        model.conv2.weight_g *= 3
    model(torch.randn(2, 3, 17, 17))  # its weight is no leaf, now
    reference = Small()
    with torch.no_grad():
        reference.conv2.weight *= 3
    reference.norm.load_state_dict(model.norm.state_dict())
    for layer in ("conv1", "relu", "conv2"):
        assert_right(model.eval(), layer, reference.eval())


def test_the_old_spectral_norm_and_pruning() -> None:
    model = Small()
    model.conv2 = nn.utils.spectral_norm(model.conv2)
    prune.l1_unstructured(model.conv1, "weight", amount=0.5)
    model(torch.randn(2, 3, 17, 17))
    reference = Small()
    reference.norm.load_state_dict(model.norm.state_dict())
    with torch.no_grad():
        model.eval()(torch.randn(2, 3, 17, 17))
        for name in ("conv1", "conv2"):
            getattr(reference, name).weight.copy_(getattr(model, name).weight)
    assert float((reference.conv1.weight == 0).float().mean()) == pytest.approx(0.5, abs=0.01)
    for layer in ("conv1", "conv2"):
        assert_right(model, layer, reference.eval())


def test_a_network_that_keeps_what_it_computes() -> None:
    class Keeping(Small):
        kept: Any = None

        def forward(self, x: Tensor) -> Tensor:
            h = self.relu(self.norm(self.conv1(x)))
            self.kept = {"h": [h], "count": (self.kept or {"count": 0})["count"] + 1}
            return self.fc(F.relu(self.conv2(h)).mean((2, 3)))

    model = Keeping().eval()
    model(torch.randn(2, 3, 17, 17))
    kept = model.kept["h"][0]
    assert_right(model, "conv1", Small().eval())
    assert model.kept["h"][0] is kept and kept.grad_fn is not None and model.kept["count"] == 1


def test_a_network_that_writes_into_its_buffers() -> None:
    class Counting(Small):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.seen += len(x)
            return super().forward(x)

    model = Counting().eval()
    ablate(model)
    assert float(model.seen) == 0


def test_a_forward_of_the_instance() -> None:
    model = Small().eval()
    model.forward = partial(Small.forward, model)  # type: ignore[method-assign]
    assert_right(model, "conv1", Small().eval())
    assert "forward" in vars(model)


def count_calls(calls: list[int], *_: object) -> None:
    calls.append(1)


def test_hooks_of_the_users_are_not_called_and_stay(caplog: pytest.LogCaptureFixture) -> None:
    model, calls, seen, grads = Small().eval(), list[int](), dict[str, Tensor](), list[int]()
    model.conv1.register_forward_hook(partial(count_calls, calls))
    model.relu.register_forward_hook(lambda _, given, out: seen.update(out=out.detach()))
    model.conv2.register_forward_pre_hook(lambda *_: calls.append(2))
    model.conv2.register_forward_hook(lambda _, given, kwargs, out: out.retain_grad(), with_kwargs=True)
    model.register_forward_hook(lambda _, given, out: out)
    model.fc.register_full_backward_hook(lambda *_: grads.append(1))
    with caplog.at_level(logging.WARNING):
        found = assert_right(model, "conv1", Small().eval())
    assert not calls and not seen and not grads and not [line for line in caplog.messages if "hook" in line]
    xr.testing.assert_equal(found, ablate(Small().eval()))
    model(torch.randn(1, 3, 17, 17)).sum().backward()
    assert len(calls) == 2 and seen and grads


HALVED = 0


def halve_and_count(layer: nn.Module, given: Any, out: Tensor) -> Tensor:
    global HALVED
    HALVED += 1
    return out / 2


class Silencing:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, layer: nn.Module, given: Any, out: Tensor) -> None:
        self.calls += 1
        out[:, 2] = 0


class Doubling:
    calls = 0

    def before(self, layer: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        self.calls += 1
        return (given[0] * 2,)


def with_keywords(layer: nn.Module, given: Any, kwargs: Any) -> Any:
    return (given[0] + 1,), kwargs


def broken(*_: object) -> None:
    raise RuntimeError("no such experiment")


def test_a_hook_that_changes_values_is_named(caplog: pytest.LogCaptureFixture) -> None:
    model, silencing, doubling = Small().eval(), Silencing(), Doubling()
    model.conv1.register_forward_hook(halve_and_count)
    model.relu.register_forward_hook(silencing)
    model.conv2.register_forward_pre_hook(doubling.before)
    model.fc.register_forward_pre_hook(with_keywords, with_kwargs=True)
    model.norm.register_forward_hook(broken)
    with caplog.at_level(logging.WARNING):
        found = ablate(model)
    (line,) = (line for line in caplog.messages if "hooks of yours" in line)
    for name in (
        "halve_and_count on 'conv1',", "Silencing on 'relu',", "Doubling.before on 'conv2',", "with_keywords on 'fc'",
        "broken on 'norm' (which fails when it is tried)",
    ):  # fmt: skip
        assert name in line
    assert HALVED == silencing.calls == doubling.calls == 0
    np.testing.assert_array_equal(found.prediction, ablate(Small().eval()).prediction)


class LoRA(nn.Module):
    """A layer with a low-rank update beside it, as peft wraps one."""

    def __init__(self, base: nn.Conv2d | nn.Linear, rank: int = 2) -> None:
        super().__init__()
        self.base_layer = base
        if isinstance(base, nn.Conv2d):
            self.lora_A = nn.Conv2d(base.in_channels, rank, base.kernel_size, bias=False)
            self.lora_B = nn.Conv2d(rank, base.out_channels, 1, bias=False)
        else:
            self.lora_A = nn.Linear(base.in_features, rank, bias=False)
            self.lora_B = nn.Linear(rank, base.out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) + 0.5 * self.lora_B(self.lora_A(x))


@pytest.mark.parametrize("layer", ["conv1", "conv1.base_layer", "conv1.lora_A", "relu", "conv2", "conv2.lora_B", "fc.lora_A"])
@pytest.mark.parametrize("ablation", ["zero", "mean"])
def test_layers_wrapped_by_lora_are_exact(layer: str, ablation: str) -> None:
    model = Small()
    for name in ("conv1", "conv2", "fc"):
        setattr(model, name, LoRA(getattr(model, name)))
    found = ablate(model.eval(), layer, ablation=ablation)
    units = found.unit.values.tolist()
    assert_exact(model, source().at(range(COUNT)), layer, 0, units, found.prediction.values, ablation=ablation)
    assert found.attrs["verified_different"] == 0


class Tied(nn.Module):
    """Two convolutions with one weight, one convolution that is called twice, a transposed one with the weight of another."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.stem, self.one, self.two = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.two.weight = self.one.weight
        self.back, self.fc = nn.Conv2d(8, 8, 1), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(self.two(F.relu(self.one(x)))) + x
        x = F.relu(self.back(F.relu(self.back(x))))
        x = F.conv_transpose2d(x, self.one.weight, padding=1)
        return self.fc(x.mean((2, 3)))


@pytest.mark.parametrize(("layer", "call"), [("stem", 0), ("one", 0), ("two", 0), ("back#1", 0), ("back#2", 1)])
def test_weight_tied_convolutions_are_exact(layer: str, call: int) -> None:
    model = Tied().eval()
    found = ablate(model, layer)
    assert_exact(model, source().at(range(COUNT)), layer.partition("#")[0], call, list(range(8)), found.prediction.values)
    assert found.attrs["verified_different"] == 0


class OneOutput(nn.Module):
    """Convolutions with one output channel: as the layer, behind the layer, and as a gate."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.stem, self.gate, self.one = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 1, 1), nn.Conv2d(8, 1, 3)
        self.fc = nn.Linear(13 * 13, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        return self.fc(self.one(x * torch.sigmoid(self.gate(x))).flatten(1))


@pytest.mark.parametrize("layer", ["stem", "gate", "one"])
@pytest.mark.parametrize("ablation", ["zero", "mean", "resample"])
def test_convolutions_with_one_output_channel_are_exact(layer: str, ablation: str) -> None:
    model = OneOutput().eval()
    found = ablate(model, layer, ablation=ablation)
    assert found.attrs["verified_different"] == 0
    if ablation != "resample":
        units = found.unit.values.tolist()
        assert_exact(model, source().at(range(COUNT)), layer, 0, units, found.prediction.values, ablation=ablation)


class Absolute(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight.abs()


@pytest.mark.parametrize("layer", ["conv1", "relu", "conv2", "fc"])
def test_parametrised_layers_are_exact(layer: str) -> None:
    model = Small()
    model.conv1 = parametrizations.weight_norm(model.conv1)
    model.conv2 = parametrizations.spectral_norm(model.conv2)
    parametrize.register_parametrization(model.fc, "weight", Absolute())
    model(torch.randn(2, 3, 17, 17))
    assert_right(model.eval(), layer)
