"""Every prediction equals the oracle's: plain hooks on the unmodified network, one unit at a time, in float64."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from oracle import Oracle, Site, assert_same_predictions
from small_networks import CLASSES, SITES, DominantUnit, FunctionalReLU, SqueezeExcite, Untraceable
from torch import nn

import unitlab
from unitlab.compute.engine.ablation import ABLATIONS, donor_of_image
from unitlab.compute.images.datasets import images
from unitlab.compute.images.source import ImageSource
from unitlab.compute.networks.bundled import bundled_network

IMAGES = 6


@pytest.fixture
def few_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    """The study's own proof kept short: the tests compare with their own oracle."""
    monkeypatch.setattr("unitlab.compute.sweep.proof.MOST_VERIFIED", 8)


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


@functools.lru_cache(1)
def recorded(model: nn.Module, pixels: torch.Tensor, sites: tuple[str, ...]) -> tuple[Oracle, dict[str, Site]]:
    """The oracle of one network, for all kinds of ablations and both precisions, and what it calls the sites."""
    parts = {site: site.partition("#") for site in sites}
    named = {site: (module, int(call or 1) - 1) for site, (module, _, call) in parts.items()}
    return Oracle(model, pixels, list(named.values())), named


PRECISIONS = ("float32", "bfloat16")


def check(
    network: tuple[nn.Module, torch.Tensor], layers: list[str], classes: int, units: list[int] | None, kind: str,
    precisions: tuple[str, ...] = PRECISIONS,
) -> None:  # fmt: skip
    """One kind of ablation, all layers in one pass, against the oracle of each layer."""
    model, pixels = network
    donors, chosen = donor_of_image(len(pixels), 0)
    exact: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    for precision in precisions:
        found = unitlab.ablate(
            model, source_of(pixels, classes), layers, units=units, ablation=kind, precision=precision, device="cpu",
            progress=False,
        )  # fmt: skip
        oracle, sites = recorded(model, pixels, tuple(ds.attrs["site"] for ds in found.values()))
        for layer, ds in found.items():
            numbers = ds.unit.values.tolist()
            if layer not in exact:
                options = {"ablation": kind, "donors": donors[chosen] if kind == "resample" else None}
                exact[layer] = oracle.logits(sites[ds.attrs["site"]], numbers, **options, dim=ds.attrs["unit_dim"])
            assert_same_predictions(ds.prediction.values, numbers, *exact[layer])
            weighted = (ds.accuracy_drop.fillna(0) * ds.n_images).sum("category") / ds.sizes["image"]
            np.testing.assert_allclose(weighted, ds.overall_drop, atol=1e-12)
            assert ds.attrs["verified_different"] == 0 and ds.attrs["precision"] == precision
            assert ("forward hooks" in ds.attrs["strategy"]) == isinstance(model, Untraceable)


@functools.cache
def hand_written_network(kind: type[nn.Module], images: int, dtype: torch.dtype) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(1)
    model = settled(kind(), 17).to(dtype)
    return model, torch.randn(images, 3, 17, 17)


@pytest.fixture(params=[True, False], ids=["fast bfloat16", "slow bfloat16"])
def any_processor(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processors that multiply bfloat16 and those that do not, whichever this one is."""
    monkeypatch.setattr("unitlab.compute.engine.reduced_precision._multiplies_bfloat16", lambda _: request.param)


@pytest.mark.parametrize("ablation", ABLATIONS)
@pytest.mark.parametrize(("kind", "layer"), [(kind, layer) for kind, layers in SITES.items() for layer in layers])
@pytest.mark.usefixtures("any_processor")
def test_hand_written_networks(kind: type[nn.Module], layer: str, ablation: str) -> None:
    check(hand_written_network(kind, 40, torch.float32), [layer], CLASSES, None, ablation)


@pytest.mark.parametrize("ablation", ABLATIONS)
@pytest.mark.parametrize("kind", [FunctionalReLU, SqueezeExcite, DominantUnit])
def test_float64_networks(kind: type[nn.Module], ablation: str) -> None:
    network = hand_written_network(kind, 20, torch.float64)
    check(network, list(SITES[kind]), CLASSES, None, ablation)
    assert next(network[0].parameters()).dtype == torch.float64


def test_the_dominant_unit_is_evaluated_directly() -> None:
    from unitlab.compute.sweep.plan import plan_sweep
    from unitlab.compute.sweep.request import SweepRequest

    torch.manual_seed(0)
    model, pixels = DominantUnit().eval(), torch.randn(12, 3, 17, 17)
    plan = plan_sweep(model, source_of(pixels, CLASSES), SweepRequest("relu", memory="1 GB"), "cpu")
    engine: Any = plan.layers[0].engine
    evaluation = plan.network.evaluate(pixels, torch.zeros(12, dtype=torch.long), plan.sites, plan.needed, first_order=False)
    with torch.no_grad():
        engine.evaluate(evaluation.baseline, torch.zeros(1, 8, 1, 1))
    assert engine.recomputed > 0


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


@functools.cache
def torchvision_network(name: str, size: int) -> tuple[nn.Module, torch.Tensor]:
    """The architecture with random weights, and images; the dense layers of AlexNet and VGG are narrower, no more differs."""
    torch.manual_seed(0)
    options = {"init_weights": name == "googlenet"} if name == "googlenet" or name.startswith("vgg") else {}
    model = getattr(torchvision.models, name)(weights=None, num_classes=TOLD_APART, **options)
    if name == "alexnet" or name.startswith("vgg"):
        first, second, last = [i for i, module in enumerate(model.classifier) if isinstance(module, nn.Linear)]
        model.classifier[first] = nn.Linear(model.classifier[first].in_features, 96)
        model.classifier[second] = nn.Linear(96, 64)
        model.classifier[last] = nn.Linear(64, TOLD_APART)
    settled(model, size)
    torch.manual_seed(1)
    return model, torch.randn(IMAGES, 3, size, size)


@pytest.mark.parametrize("ablation", ABLATIONS)
@pytest.mark.parametrize(("name", "size", "layers"), TORCHVISION, ids=[row[0] for row in TORCHVISION])
@pytest.mark.usefixtures("few_verified")
def test_torchvision_networks(name: str, size: int, layers: tuple[str, ...], ablation: str) -> None:
    # of small networks every kind is compared in bfloat16
    precisions = PRECISIONS if ablation == "zero" else PRECISIONS[:1]
    check(torchvision_network(name, size), list(layers), TOLD_APART, [0, 7, 11, 19], ablation, precisions)


BUNDLED = {
    "vgg_emoji": ("emoji", ("conv1_1", "conv3_2", "conv5_2")),
    "resnet_emoji": ("emoji", ("layer1.0.relu#1", "layer3", "layer4")),
    "vgg_fashion": ("fashion_mnist", ("conv1_1", "conv2_2", "conv3_2")),
    "alexnet_fashion": ("fashion_mnist", ("conv1", "conv3", "conv5")),
}


@functools.cache
def bundled(name: str) -> tuple[nn.Module, torch.Tensor, int]:
    """The network, a dozen images, the number of classes."""
    source = unitlab.images(BUNDLED[name][0])
    some = range(0, len(source), len(source) // 12)
    return bundled_network(name), torch.cat([next(source.batches(i, i + 1, 1))[0] for i in some]), len(source.categories)


@pytest.mark.parametrize("ablation", ABLATIONS)
@pytest.mark.parametrize("name", BUNDLED)
@pytest.mark.usefixtures("few_verified")
def test_bundled_networks(name: str, ablation: str) -> None:
    model, pixels, classes = bundled(name)
    check((model, pixels), list(BUNDLED[name][1]), classes, [0, 3, 9, 14, 20, 31], ablation)
