"""Networks that torch.fx cannot trace: captured by torch.export, or hooked without running again what is before the layer."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
import xarray as xr
from oracle import Oracle, assert_exact, assert_same_predictions
from small_networks import CLASSES, SITES, Untraceable
from test_exactness import settled, source_of
from torch import Tensor, nn

import unitlab
from unitlab.compute.engine.ablation import ABLATIONS, donor_of_image
from unitlab.compute.engine.capture import CannotCapture
from unitlab.compute.sweep.plan import plan_sweep
from unitlab.compute.sweep.request import SweepRequest

TOLD_APART = 20
UNITS = [0, 3, 5, 7]


class Logits(nn.Module):
    """A Hugging Face classifier that returns its logits alone."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x).logits


def of_timm(name: str, **options: Any) -> nn.Module:
    import timm

    return timm.create_model(name, pretrained=False, num_classes=TOLD_APART, **options)


def of_transformers(name: str, **options: Any) -> nn.Module:
    import transformers

    config = getattr(transformers, f"{name}Config")(num_labels=TOLD_APART, **options)
    return Logits(getattr(transformers, f"{name}ForImageClassification")(config))


VISION: Any = torchvision.models
# network, size of its images, whether torch.fx traces it, and for each layer the dimension of its units
NETWORKS: dict[str, tuple[Any, int, bool, dict[str, int]]] = {
    "swin_t": (
        lambda: VISION.SwinTransformer([4, 4], 16, [2, 1], [2, 4], [4, 4], num_classes=TOLD_APART), 32, True,
        {"features.0.0": 1, "features.1.1": 3, "features.1.0.mlp.1": 3, "features.3": 3, "norm": 3},
    ),
    "vit_b_16": (
        lambda: VISION.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=TOLD_APART), 32, True,
        {"conv_proj": 1, "encoder.layers.encoder_layer_0.mlp.1": 2, "encoder.layers.encoder_layer_0": 2,
         "encoder.layers.encoder_layer_1.ln_2": 2},
    ),
    "maxvit_t": (
        lambda: VISION.MaxVit((32, 32), 8, 2, [8, 16], [1, 1], 4, 0.0, num_classes=TOLD_APART), 32, True,
        {"blocks.0.layers.0.layers.MBconv.layers.conv_b.0": 1, "blocks.0.layers.0": 1, "blocks.1": 1},
    ),
    "vit_tiny": (
        lambda: of_timm("vit_tiny_patch16_224", img_size=64, depth=2, embed_dim=24), 64, True,
        {"blocks.0.mlp.act": 2, "blocks.0.attn.proj": 2, "blocks.0": 2, "blocks.1": 2, "norm": 2},
    ),
    "vit_tiny by torch.export": (
        lambda: of_timm("vit_tiny_patch16_224", img_size=64, depth=2, embed_dim=24), 64, False,
        {"blocks.0.mlp.act": 2, "blocks.0": 2, "norm": 2},
    ),
    "swin_tiny": (
        lambda: of_timm(
            "swin_tiny_patch4_window7_224", img_size=32, window_size=4, embed_dim=12, depths=(2, 2), num_heads=(2, 4)
        ), 32, True,
        {"layers.0.blocks.1.mlp.act": 2, "layers.0": 3, "layers.1.blocks.0": 3},
    ),
    "convnext_atto": (
        lambda: of_timm("convnext_atto", depths=(1, 1, 2, 1), dims=(8, 16, 24, 32)), 64, True,
        {"stages.2.blocks.1": 1, "stages.2.blocks.0.mlp.act": 1, "stages.2.blocks.0.norm": 1, "stages.1": 1},
    ),
    "convnext_atto without convolutions": (
        lambda: of_timm("convnext_atto", depths=(1, 1, 2, 1), dims=(8, 16, 24, 32), conv_mlp=False), 64, True,
        {"stages.2.blocks.1": 1, "stages.2.blocks.0.mlp.act": 3, "stages.2.blocks.0.norm": 3},
    ),
    "mobilenetv3_small_050": (
        lambda: of_timm("mobilenetv3_small_050"), 32, True, {"blocks.1": 1, "blocks.4.0.conv_dw": 1, "conv_head": 1},
    ),
    "regnety_002": (lambda: of_timm("regnety_002"), 32, True, {"s3": 1, "s4.b1.conv2": 1}),
    "resnext50_32x4d": (
        lambda: of_timm("resnext50_32x4d", layers=[1, 1, 1, 1]), 32, True, {"layer2.0.conv2": 1, "layer3": 1, "layer4": 1},
    ),
    "Hugging Face ResNet": (
        lambda: of_transformers("ResNet", embedding_size=8, hidden_sizes=[8, 16], depths=[1, 2], layer_type="basic"), 32, False,
        {"network.resnet.embedder.embedder.convolution": 1, "network.resnet.encoder.stages.1.layers.1": 1},
    ),
    "Hugging Face ViT": (
        lambda: of_transformers(
            "ViT", hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8
        ), 32, False,
        {"network.vit.layers.0": 2, "network.vit.layers.0.mlp.activation_fn": 2, "network.vit.layers.1.mlp": 2},
    ),
    "Hugging Face ConvNeXt": (
        lambda: of_transformers("ConvNext", hidden_sizes=[8, 16], depths=[1, 2], num_stages=2), 32, False,
        {"network.convnext.encoder.stages.1.layers.0": 1, "network.convnext.encoder.stages.1.layers.0.act": 3,
         "network.convnext.encoder.stages.1.layers.0.drop_path": 1},
    ),
    "Hugging Face Swin": (
        lambda: of_transformers(
            "Swin", image_size=32, patch_size=4, embed_dim=16, depths=[2, 1], num_heads=[2, 4], window_size=4
        ), 32, False,
        {"network.swin.encoder.layers.0.blocks.0.mlp": 2, "network.swin.encoder.layers.1.blocks.0.mlp.activation_fn": 2,
         "network.swin.layernorm": 2},
    ),
}  # fmt: skip


def refuse(*_: object) -> None:
    """In the place of `capture`."""
    raise CannotCapture("this test has it so")


@functools.lru_cache(1)
def network(name: str) -> tuple[nn.Module, Tensor, Oracle]:
    torch.manual_seed(0)
    make, size, _, layers = NETWORKS[name]
    model = make().eval()
    with torch.no_grad():
        # fresh transformers hardly tell images apart
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
    pixels = torch.randn(6, 3, size, size)
    return model, pixels, Oracle(model, pixels, [(layer, 0) for layer in layers])


@pytest.mark.parametrize("ablation", [*ABLATIONS, "random"])
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_are_exact(name: str, ablation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unitlab.compute.sweep.proof.MOST_VERIFIED", 8)
    model, pixels, oracle = network(name)
    _, _, traced, layers = NETWORKS[name]
    if name.endswith("by torch.export"):
        monkeypatch.setattr("unitlab.compute.engine.network.capture", refuse)
    basis, kind = ("random", "zero") if ablation == "random" else (None, ablation)
    found = unitlab.ablate(
        model, source_of(pixels, TOLD_APART), list(layers), units=UNITS, ablation=kind, basis=basis, device="cpu",
        progress=False,
    )  # fmt: skip
    donors, chosen = donor_of_image(len(pixels), 0)
    for layer, dim in layers.items():
        ds = found[layer]
        assert ds.attrs["unit_dim"] == dim and ds.attrs["verified_different"] == 0
        assert ds.attrs["capture"] == ("torch.fx" if traced else "torch.export")
        rows = torch.as_tensor(ds.basis.values) if basis else None
        exact, plain = oracle.logits(
            (layer, 0), [*range(4)] if basis else UNITS, ablation=kind, dim=dim, basis=rows,
            donors=donors[chosen] if kind == "resample" else None,
        )  # fmt: skip
        assert_same_predictions(ds.prediction.values, UNITS, exact, plain)
        labels = torch.arange(len(pixels)).expand(len(UNITS), -1).unsqueeze(2)
        margin = exact.gather(2, labels)[..., 0] - exact.scatter(2, labels, -torch.inf).amax(2)
        spread = float((exact.amax(2) - exact.amin(2)).max())
        drop = ds.baseline_margin.values.astype(float) - margin.numpy()
        np.testing.assert_allclose(ds.label_margin_drop.values, drop, rtol=2e-3, atol=2e-5 * spread)


@pytest.mark.parametrize("name", ["vit_tiny", "Hugging Face Swin", "swin_t"])
def test_products_in_bfloat16(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unitlab.compute.engine.reduced_precision._multiplies_bfloat16", lambda _: True)
    model, pixels, oracle = network(name)
    for layer, dim in NETWORKS[name][3].items():
        plan = plan_sweep(
            model, source_of(pixels, TOLD_APART), SweepRequest(layer, units=UNITS, precision="bfloat16"), "cpu"
        )  # fmt: skip
        engine: Any = plan.layers[0].engine
        assert engine.closed_form is not None or engine.replay.products
        ds = unitlab.ablate(
            model, source_of(pixels, TOLD_APART), layer, units=UNITS, precision="bfloat16", progress=False, device="cpu"
        )
        assert_same_predictions(ds.prediction.values, UNITS, *oracle.logits((layer, 0), UNITS, dim=dim))


def test_a_network_of_transformers_is_taken_as_it_is() -> None:
    model, pixels, oracle = network("Hugging Face ViT")
    site = "vit.layers.0.mlp.activation_fn"
    ds = unitlab.ablate(model.network, source_of(pixels, TOLD_APART), site, units=UNITS, progress=False, device="cpu")
    assert ds.attrs["capture"] == "torch.export" and ds.attrs["verified_different"] == 0
    assert_same_predictions(ds.prediction.values, UNITS, *oracle.logits((f"network.{site}", 0), UNITS, dim=2))


def test_exported_networks_have_first_order_effects_and_norms() -> None:
    model, pixels, _ = network("Hugging Face ViT")
    site, rows = "network.vit.layers.0.mlp.activation_fn", model.get_parameter("network.vit.layers.0.mlp.fc1.weight").detach()
    ds = unitlab.ablate(model, source_of(pixels, TOLD_APART), site, progress=False, device="cpu")
    np.testing.assert_allclose(ds.l1_norm, rows.abs().sum(1), rtol=1e-6)
    leaf: list[Tensor] = []

    def keep(_module: nn.Module, _given: object, returned: Tensor) -> Tensor:
        leaf.append(returned.detach().requires_grad_())
        return leaf[0]

    with model.get_submodule(site).register_forward_hook(keep):
        logits = model(pixels)
    labels = torch.arange(len(pixels)).unsqueeze(1)
    margin = logits.gather(1, labels)[:, 0] - logits.scatter(1, labels, -torch.inf).amax(1)
    (gradient,) = torch.autograd.grad(margin.sum(), leaf)
    effect = (leaf[0] * gradient).sum(1).detach()  # of each of six classes with one image
    np.testing.assert_allclose(ds.first_order_margin_drop[:, : len(pixels)], effect.T, rtol=1e-3, atol=1e-6)
    # batch norm is a function there
    model, pixels, _ = network("Hugging Face ResNet")
    layer = "network.resnet.encoder.stages.0.layers.0.layer.0"
    ds = unitlab.ablate(model, source_of(pixels, TOLD_APART), layer, progress=False, device="cpu")
    convolution, norm = model.get_submodule(f"{layer}.convolution"), model.get_submodule(f"{layer}.normalization")
    scale = (norm.weight / (norm.running_var + norm.eps).sqrt()).abs()
    expected = convolution.weight.abs().flatten(1).sum(1) * scale
    np.testing.assert_allclose(ds.l1_norm_folded, expected.detach(), rtol=1e-5)
    np.testing.assert_allclose(ds.batch_norm_scale, norm.weight.detach(), rtol=1e-6)


def hooked(ds: xr.Dataset) -> bool:
    return "forward hooks" in ds.attrs["strategy"] and ds.attrs["capture"] == "none"


@pytest.mark.parametrize("kind", [kind for kind in SITES if kind is not Untraceable])
def test_one_table_of_operations_serves_both_captures(kind: type[nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    model, pixels = settled(kind(), 17), torch.randn(24, 3, 17, 17)
    by_fx = plan_sweep(model, source_of(pixels, CLASSES), SweepRequest(list(SITES[kind])), "cpu")
    monkeypatch.setattr("unitlab.compute.engine.network.capture", refuse)
    for layer, plan in zip(SITES[kind], by_fx.layers, strict=True):
        ds = unitlab.ablate(model, source_of(pixels, CLASSES), layer, ablation="mean", progress=False, device="cpu")
        module, _, call = layer.partition("#")
        where = (model, pixels, module, int(call or 1) - 1, list(range(ds.sizes["unit"])))
        assert_exact(*where, ds.prediction.values, ablation="mean", dim=ds.attrs["unit_dim"])
        assert ds.attrs["capture"] == "torch.export"
        # as much is shared: by contributions, in closed form
        assert ds.attrs["strategy"].partition(",")[0] == plan.engine.strategy.partition(",")[0]


class Flagged(nn.Module):
    """Control flow that torch.fx does not follow, and modules that return what they are given."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.same, self.mix = nn.Conv2d(3, 8, 3), nn.Identity(), nn.Conv2d(8, 8, 1)
        self.relu, self.drop, self.fc = nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x) if x.shape[1] == 3 and list(x.shape)[2] > 3 and bool(x.dim() == 4 or x) else x
        y = self.same(x)
        for _ in range(int(y.size(3)) % 2 + 1):
            y = self.mix(y)
        y = self.relu(y + x)
        return self.fc(self.drop(y).mean((2, 3)))


@pytest.mark.parametrize("layer", ["conv", "same", "mix#1", "mix#2", "relu", "drop"])
def test_what_modules_return_is_found_though_they_have_no_operation(layer: str) -> None:
    torch.manual_seed(0)
    model, pixels = settled(Flagged(), 17), torch.randn(20, 3, 17, 17)
    ds = unitlab.ablate(model, source_of(pixels, CLASSES), layer, progress=False, device="cpu")
    module, _, call = layer.partition("#")
    assert ds.attrs["capture"] == "torch.export"
    assert_exact(model, pixels, module, int(call or 1) - 1, list(range(8)), ds.prediction.values)


def test_a_graph_that_is_not_the_network_at_a_layer_is_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from unitlab.compute.engine import network as module
    from unitlab.compute.engine.capture import exported

    torch.manual_seed(0)
    model, pixels = settled(Flagged(), 17), torch.randn(12, 3, 17, 17)

    def wired_wrongly(*given: Any) -> Any:
        graph = exported(*given)
        graph.calls["same"][0] = graph.calls["conv"][0]  # the same value, which the shortcut reads as well
        return graph

    monkeypatch.setattr(module, "exported", wired_wrongly)
    ds = unitlab.ablate(model, source_of(pixels, CLASSES), "same", progress=False, device="cpu")
    assert hooked(ds) and "torch.export's graph is not the network at same" in caplog.text
    assert_exact(model, pixels, "same", 0, list(range(8)), ds.prediction.values)

    def another_value(*given: Any) -> Any:
        graph = exported(*given)
        graph.unproved = {graph.calls["same"][0]}
        return graph

    monkeypatch.setattr(module, "exported", another_value)
    assert hooked(unitlab.ablate(model, source_of(pixels, CLASSES), "same", progress=False, device="cpu"))


class Counted(nn.Conv2d):
    """A convolution that counts how many images it is given."""

    images = 0

    def forward(self, x: Tensor) -> Tensor:
        type(self).images += len(x)
        return super().forward(x)


class Sequence(nn.Module):
    """Children in order, which neither capture takes; the values before the layer are written into in every way there is."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.block = Counted(3, 8, 3), nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU(inplace=True))
        self.relu, self.layer = nn.ReLU(inplace=True), nn.Conv2d(8, 8, 3)
        self.twice, self.fc = nn.Conv2d(8, 8, 1), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        before = self.block(x) + self.twice(x)
        self.relu(x)
        before += x
        x *= 1 if float(x.sum()) > -1e9 else 2
        x = F.relu(self.layer(x + before), inplace=True)
        return self.fc((self.twice(x) + x).mean((2, 3)))


@pytest.mark.parametrize("layer", ["first", "block.0", "twice#1", "relu", "layer", "twice#2"])
@pytest.mark.parametrize("basis", [None, "random"])
def test_hooks_skip_the_modules_before_the_layer(layer: str, basis: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unitlab.compute.sweep.proof.MOST_VERIFIED", 8)
    torch.manual_seed(0)
    model, pixels = settled(Sequence(), 17), torch.randn(20, 3, 17, 17)
    Counted.images = 0
    ds = unitlab.ablate(model, source_of(pixels, CLASSES), layer, basis=basis, progress=False, device="cpu")
    # plan, null check and proof apart, the first module runs twice an image, and not once more for each of eight units
    assert hooked(ds) and Counted.images < 6 * len(pixels)
    module, _, call = layer.partition("#")
    rows = None if basis is None else torch.as_tensor(ds.basis.values)
    assert_exact(model, pixels, module, int(call or 1) - 1, list(range(8)), ds.prediction.values, basis=rows)


def test_hooks_follow_control_flow_that_changes_from_batch_to_batch() -> None:
    class Changing(Untraceable):
        def forward(self, x: Tensor) -> Tensor:
            first, second = (self.conv, self.other) if float(x.mean()) > 0 else (self.other, self.conv)
            return self.fc(self.relu(first(x) * second(x)).mean((2, 3)))

        def __init__(self) -> None:
            super().__init__()
            self.other = nn.Conv2d(3, 8, 3)

    torch.manual_seed(0)
    model = Changing().eval()
    pixels = torch.cat([torch.randn(4, 3, 17, 17) + shift for shift in (0.5, -0.5, 0.5)])
    ds = unitlab.ablate(model, source_of(pixels, CLASSES), "conv", batch_size=4, progress=False, device="cpu")
    for part in (slice(4), slice(4, 8), slice(8, 12)):
        assert_exact(model, pixels[part], "conv", 0, list(range(8)), ds.prediction.values[:, part])


class Direct(nn.Conv2d):
    """A convolution that errs more in channels_last, as direct kernels do: by up to ``error`` of its output."""

    error = 0.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = super().forward(x)
        if x.dtype == torch.float64 or x.is_contiguous():
            return out
        return out * (1 + self.error * torch.linspace(-1, 1, out.shape[1]).reshape(-1, 1, 1))


@pytest.mark.parametrize(("error", "captured"), [(1e-6, True), (1e-4, True), (1e-2, False)])
def test_formats_may_differ_by_as_much_as_float32_errs_in_them(
    error: float, captured: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(nn, "Conv2d", Direct)  # which torch.fx takes for a module of torch's
    monkeypatch.setattr(Direct, "error", error)
    monkeypatch.setattr(Direct, "__module__", "torch.nn.modules.conv")
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)).eval()
    pixels = torch.randn(4, 3, 9, 9)
    source = unitlab.images(torch.utils.data.TensorDataset(pixels, torch.arange(4)), categories=list("abcde"))
    ds = unitlab.ablate(model, source, "1", labels="predicted", progress=False, device="cpu")
    assert (ds.attrs["capture"] != "none") == captured
    assert ("other logits than the network" in caplog.text) == (not captured)
