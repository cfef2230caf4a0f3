"""Every prediction equals the oracle's: plain hooks on the unmodified network, one unit at a time, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision
from oracle import assert_exact
from small_networks import CLASSES, SITES, DominantUnit, Untraceable
from torch import nn

import unitlab
from unitlab.compute.images import ImageSource, images
from unitlab.compute.replacements import donor_of_image

IMAGES = 6


def settled(model: nn.Module, size: int) -> nn.Module:
    """The network in eval mode, its batch-norm statistics run in."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.eval()
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(8, 3, size, size))
    return model.eval()


def source_of(pixels: torch.Tensor, classes: int) -> ImageSource:
    labels = torch.arange(len(pixels)) % classes
    return images(torch.utils.data.TensorDataset(pixels, labels), categories=[f"class {k}" for k in range(classes)])


def check(model: nn.Module, layer: str, pixels: torch.Tensor, classes: int, *, units: list[int] | None, **options: str) -> None:
    ablation = options.get("ablation", "zero")
    ds = unitlab.ablate(model, source_of(pixels, classes), layer, units=units, device="cpu", progress=False, **options)
    module, _, call = ds.attrs["site"].partition("#")
    donors, chosen = donor_of_image(len(pixels), 0)
    assert_exact(
        model,
        pixels,
        module,
        int(call or 1) - 1,
        ds.unit.values.tolist(),
        ds.prediction.values,
        ablation=ablation,
        donors=donors[chosen] if ablation == "resample" else None,
    )
    weighted = (ds.accuracy_drop.fillna(0) * ds.n_images).sum("category") / ds.sizes["image"]
    np.testing.assert_allclose(weighted, ds.overall_drop, atol=1e-12)
    assert ds.attrs["verified_different"] == 0


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("ablation", ["zero", "mean", "resample"])
@pytest.mark.parametrize(("kind", "layer"), [(kind, layer) for kind, layers in SITES.items() for layer in layers])
def test_hand_written_networks(kind: type[nn.Module], layer: str, ablation: str, precision: str) -> None:
    torch.manual_seed(1)
    model = settled(kind(), 17)
    check(model, layer, torch.randn(40, 3, 17, 17), CLASSES, units=None, ablation=ablation, precision=precision)


def test_a_float64_network() -> None:
    torch.manual_seed(0)
    model = settled(next(iter(SITES))(), 17).double()
    ds = unitlab.ablate(model, source_of(torch.randn(9, 3, 17, 17), CLASSES), "conv1", progress=False, device="cpu")
    assert ds.attrs["verified_different"] == 0 and next(model.parameters()).dtype == torch.float64


def test_the_dominant_unit_is_evaluated_directly() -> None:
    from unitlab.compute.plan import plan_sweep

    torch.manual_seed(0)
    model, pixels = DominantUnit().eval(), torch.randn(12, 3, 17, 17)
    plan = plan_sweep(
        model, source_of(pixels, CLASSES), "relu", units=None, ablation="zero", labels="given", device="cpu",
        precision="float32", batch_size=None, memory="1 GB", seed=0,
    )  # fmt: skip
    evaluation = plan.network.evaluate(pixels, torch.zeros(12, dtype=torch.long), plan.sites, plan.needed, first_order=False)
    with torch.no_grad():
        plan.engines[0].evaluate(evaluation.baseline, torch.zeros(1, 8, 1, 1))
    assert plan.engines[0].recomputed > 0


def test_an_untraceable_network_is_hooked(caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    ds = unitlab.ablate(Untraceable(), source_of(torch.randn(4, 3, 17, 17), CLASSES), "conv", progress=False, device="cpu")
    assert "forward hooks" in ds.attrs["strategy"] and "cannot trace" in caplog.text


TORCHVISION = [
    ("alexnet", 64, ("conv1", "conv3", "conv5")),
    ("vgg16", 32, ("conv3_1", "conv4_3", "conv5_3")),
    ("vgg16_bn", 32, ("conv3_1", "conv5_3:pre", "conv5_3")),
    ("resnet18", 64, ("layer1.0.conv1", "layer3", "layer4")),
    ("resnet50", 64, ("layer2.0.relu#2", "layer3.5.bn3", "layer4")),
    ("squeezenet1_1", 64, ("features.3", "features.9.squeeze_activation", "classifier.1")),
    ("mobilenet_v2", 64, ("features.3", "features.9.conv.0", "features.18")),
    ("densenet121", 64, ("features.denseblock2", "features.denseblock4.denselayer16.conv1", "features.norm5")),
    ("googlenet", 64, ("conv2", "inception4a.branch2", "inception5b")),
    ("efficientnet_b0", 64, ("features.2", "features.5.1.block.1", "features.8")),
]


TOLD_APART = 20


def torchvision_network(name: str, size: int) -> nn.Module:
    """The architecture with random weights; the dense layers of AlexNet and VGG are narrower, they differ in nothing else."""
    torch.manual_seed(0)
    options = {"init_weights": True} if name == "googlenet" else {}
    model = getattr(torchvision.models, name)(weights=None, num_classes=TOLD_APART, **options)
    if name == "alexnet" or name.startswith("vgg"):
        first, second, last = [i for i, module in enumerate(model.classifier) if isinstance(module, nn.Linear)]
        model.classifier[first] = nn.Linear(model.classifier[first].in_features, 96)
        model.classifier[second] = nn.Linear(96, 64)
        model.classifier[last] = nn.Linear(64, TOLD_APART)
    return settled(model, size)


@pytest.mark.parametrize("layer_number", [0, 1, 2])
@pytest.mark.parametrize(("name", "size", "layers"), TORCHVISION, ids=[row[0] for row in TORCHVISION])
def test_torchvision_networks(
    name: str, size: int, layers: tuple[str, ...], layer_number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unitlab.compute.sweep.VERIFIED_PAIRS", 16)
    model = torchvision_network(name, size)
    pixels = torch.randn(IMAGES, 3, size, size)
    for ablation, precision in (("zero", "float32"), ("mean", "bfloat16"), ("resample", "float32")):
        check(model, layers[layer_number], pixels, TOLD_APART, units=[0, 7, 11, 19], ablation=ablation, precision=precision)


BUNDLED = {
    "vgg_emoji": ("emoji", ("conv1_1", "conv3_2", "conv5_2")),
    "resnet_emoji": ("emoji", ("layer1.0.relu#1", "layer3", "layer4")),
    "vgg_fashion": ("fashion_mnist", ("conv1_1", "conv2_2", "conv3_2")),
    "alexnet_fashion": ("fashion_mnist", ("conv1", "conv3", "conv5")),
}


@pytest.mark.parametrize(("name", "layer"), [(name, layer) for name, (_, layers) in BUNDLED.items() for layer in layers])
def test_bundled_networks(name: str, layer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from unitlab.compute.networks import bundled_network

    monkeypatch.setattr("unitlab.compute.sweep.VERIFIED_PAIRS", 16)
    bundled = unitlab.images(BUNDLED[name][0])
    some = range(0, len(bundled), len(bundled) // 50)
    pixels = torch.cat([next(bundled.batches(i, i + 1, 1))[0] for i in some])
    model = bundled_network(name)
    for ablation, precision in (("zero", "float32"), ("zero", "bfloat16"), ("mean", "float32"), ("resample", "bfloat16")):
        units = [0, 3, 9, 14, 20, 31]
        check(model, layer, pixels, len(bundled.categories), units=units, ablation=ablation, precision=precision)
