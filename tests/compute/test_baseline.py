"""The unablated network's accuracy is said first, and a wrong setup is warned of before the sweep."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from small_networks import CLASSES, FunctionalReLU
from torch import nn
from torch.utils.data import TensorDataset

import unitlab
from unitlab import cli
from unitlab.compute.images.source import ImageSource
from unitlab.compute.networks import bundled_network
from unitlab.compute.sweep.baseline import Baseline, _reordered, _reversed, measured_baseline, sampled_positions
from unitlab.compute.sweep.plan import plan_sweep
from unitlab.compute.sweep.request import SweepRequest

RECORDED = {"vgg_emoji": 0.6143, "vgg_fashion": 0.9168}
LAYERS = {"vgg_emoji": "conv5_2", "vgg_fashion": "conv3_2"}
IMAGES = {"vgg_emoji": "emoji", "vgg_fashion": "fashion_mnist"}


class Oracle(nn.Module):
    """The label is painted into the image; ``right`` of ``of`` images are recognised, the others taken for the next class."""

    def __init__(self, right: int, of: int) -> None:
        super().__init__()
        self.conv, self.right, self.of = nn.Conv2d(2, 4, 1), right, of

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        label, number = x[:, 0, 0, 0].round().long(), x[:, 1, 0, 0].round().long()
        z = nn.functional.one_hot((label + (number % self.of >= self.right)) % CLASSES, CLASSES) * 5.0
        return z + 1e-3 * self.conv(x).mean((1, 2, 3))[:, None]


def painted(count: int, labels: np.ndarray | None = None) -> ImageSource:
    labels = np.arange(count) % CLASSES if labels is None else labels
    pixels = torch.zeros(count, 2, 2, 2)
    pixels[:, 0] += torch.as_tensor(labels)[:, None, None]
    pixels[:, 1] += torch.arange(count)[:, None, None]
    pictures = TensorDataset(pixels, torch.as_tensor(labels))
    return unitlab.images(pictures, categories=[f"class {k}" for k in range(CLASSES)])


def estimated(model: nn.Module, images: Any, layer: str = "conv", **options: Any) -> Baseline:
    found = unitlab.estimate(model.eval(), images, layer, units=[0], device="cpu", **options)
    assert found.baseline is not None and str(found.baseline) in str(found) and found.baseline.warning in str(found)
    return found.baseline


def test_the_sample_is_seeded_and_has_each_class_by_its_share() -> None:
    labels = np.repeat([0, 1, 2], [500, 300, 200])[np.random.default_rng(1).permutation(1000)]
    found = sampled_positions(labels, 100)
    np.testing.assert_array_equal(found, sampled_positions(labels, 100))
    assert len(np.unique(found)) == 100 and (np.diff(found) > 0).all()
    np.testing.assert_allclose(np.bincount(labels[found]), [50, 30, 20], atol=1)
    assert (found != sampled_positions(labels, 100, seed=1)).any()
    np.testing.assert_array_equal(sampled_positions(labels, 2000), np.arange(1000))


def test_accuracy_and_chance_of_a_network_that_is_known() -> None:
    found = estimated(Oracle(3, 4), painted(56))
    assert (found.images, found.correct) == (56, 42)
    label = np.arange(56) % CLASSES
    predicted = (label + (np.arange(56) % 4 >= 3)) % CLASSES
    assert found.chance == pytest.approx(sum((label == k).mean() * (predicted == k).mean() for k in range(CLASSES)))
    assert (
        str(found) == f"75.0% accuracy on 56 images spread over all classes (chance {found.chance:.1%})" and not found.warning
    )


def test_a_constant_predictor_is_at_chance_however_unequal_the_classes_are() -> None:
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(x).mean((2, 3))[:, :1] * 1e-3 + torch.tensor([[5.0, 0, 0, 0, 0, 0, 0]])

    labels = np.where(np.arange(60) < 48, 0, np.arange(60) % CLASSES)
    found = estimated(Constant(), painted(60, labels))
    assert found.accuracy == found.chance >= 0.8 and "not above chance" in found.warning
    assert estimated(Oracle(1, 1), painted(60, labels)).warning == ""
    # all right, in one class alone: nothing to warn of
    assert estimated(Constant(), painted(10, np.zeros(10, int))).warning == ""


@pytest.mark.parametrize(("images", "chance", "recorded"), [(256, 0.1, 0.7), (64, 0.02, 0.61), (64, 0.5, 0.9), (20, 0.3, 0.5)])
def test_the_bounds_are_those_of_binomial_tests(images: int, chance: float, recorded: float) -> None:
    for correct in range(images):
        found = Baseline(images, correct, chance, recorded)
        above = binomtest(correct, images, chance, alternative="greater").pvalue < 0.01
        under = binomtest(correct, images, recorded, alternative="less").pvalue < 0.01 and correct / images <= recorded - 0.05
        assert (found.at_chance, found.far_under_recorded) == (not above, under)
        assert bool(found.warning) == (not above or under)


def setup(name: str) -> tuple[nn.Module, ImageSource]:
    return bundled_network(name), unitlab.images(IMAGES[name])


def bgr(source: ImageSource) -> ImageSource:
    right = source.transform
    return replace(source, transform=lambda image: (image if right is None else right(image)).flip(0))


def sorted_classes(source: ImageSource) -> ImageSource:
    """As somebody gives them who lets folders or names be sorted: every label is the position among the sorted names."""
    order = sorted(source.categories)
    place = np.array([order.index(name) for name in source.categories])
    return replace(source, categories=order, labels=place[source.labels])


@pytest.mark.parametrize("name", ["vgg_emoji", "vgg_fashion"])
def test_a_right_setup_is_not_warned_of(name: str) -> None:
    model, source = setup(name)
    plan = plan_sweep(model, source, SweepRequest(LAYERS[name]), "cpu")
    for count in (64, 256):
        found = measured_baseline(plan, source, {"top1_accuracy": RECORDED[name]}, count)
        assert found is not None and found.images == count and found.warning == ""


def test_classes_sorted_wrongly_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    model, source = setup("vgg_fashion")
    assert sorted(source.categories) != list(source.categories)
    found = estimated(model, sorted_classes(source), "conv3_2")
    # several classes have the same place in both orders: it is above chance, and no accuracy is recorded
    assert not found.at_chance and found.recorded is None
    assert "with the classes in another order" in found.warning and "categories=" in found.warning
    few = sorted_classes(source).subset(range(300))
    with caplog.at_level(logging.WARNING):
        unitlab.ablate(model, few, "conv3_2", units=[0], progress=False, device="cpu", attrs={"top1_accuracy": 0.9168})
    (line,) = (line for line in caplog.messages if "RECOGNISES" in line)
    assert "far under the recorded 91.7%" in line and "would be 9" in line


def test_bgr_for_rgb_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    model, source = setup("vgg_emoji")
    few = bgr(source).subset(range(0, len(source), 10))
    with caplog.at_level(logging.WARNING):
        unitlab.ablate(model, few, "conv5_2", units=[0], progress=False, device="cpu", attrs={"top1_accuracy": 0.6143})
    (line,) = (line for line in caplog.messages if "RECOGNISES" in line)
    assert "far under the recorded 61.4%" in line and "not above chance" not in line
    assert "with the channels reversed (BGR for RGB)" in line


@pytest.mark.parametrize("classes", [2, 7, 20])
def test_no_order_and_no_reversal_is_found_in_noise(classes: int) -> None:
    random = np.random.default_rng(2)
    found = 0
    for _ in range(200):
        labels, predicted = random.integers(0, classes, (2, 10 * classes))
        found += _reordered(labels, predicted) > 0
    assert found <= 200 * 0.03
    flags = random.integers(0, 2, (500, 2, 40)).astype(bool)
    assert np.mean([_reversed(*pair) > 0 for pair in flags]) <= 0.02
    # a network that is right, with its classes turned round
    labels = np.arange(10 * classes) % classes
    assert _reordered(labels, (labels + 1) % classes) == 1.0 and _reordered(labels, labels) == 0.0


def source() -> ImageSource:
    torch.manual_seed(3)
    pictures = TensorDataset(torch.randn(40, 3, 17, 17), torch.arange(40) % CLASSES)
    return unitlab.images(pictures, categories=[f"class {k}" for k in range(CLASSES)])


def test_it_is_said_before_the_sweep_and_only_there(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    model = FunctionalReLU().eval()
    options: dict[str, Any] = {"units": [0], "device": "cpu"}
    with caplog.at_level(logging.WARNING, "unitlab"):
        unitlab.ablate(model, source(), "conv2", progress=True, **options)
        assert capsys.readouterr().err.count("accuracy on 40 images spread over all classes (chance") == 1
        unitlab.ablate(model, source(), "conv2", progress=False, **options)
        unitlab.ablate(model, source(), "conv2", progress=True, labels="predicted", **options)
        assert "accuracy on" not in capsys.readouterr().err
    with caplog.at_level(logging.INFO, "unitlab"):
        unitlab.ablate(model, source(), "conv2", progress=True, **options)
        assert "accuracy on" not in capsys.readouterr().err
        caplog.clear()
        unitlab.cumulative(model, source(), "conv2", "overall_drop", ks=[0, 2], rank_on="same", progress=False, device="cpu")
        assert "accuracy on" not in caplog.text
    assert unitlab.estimate(model, source(), "conv2", labels="predicted", device="cpu").baseline is None


def test_the_command_says_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["compute", "vgg_fashion", "--units", "3", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "baseline 95.3% accuracy on 64 images spread over all classes (chance 10.0%, recorded 91.7%)" in out


def test_an_embedding_taken_for_logits_is_at_chance(caplog: pytest.LogCaptureFixture) -> None:
    """A network without its last layer: as many numbers as features; where labels are positions, nothing refuses it."""
    model, source = setup("vgg_fashion")
    features = nn.Sequential(*list(model.children())[:1], nn.Flatten(), *list(model.classifier.children())[:-1]).eval()
    few = source.subset(range(600))
    pairs = TensorDataset(few.at(range(600)), torch.as_tensor(np.asarray(few.labels)))
    with caplog.at_level(logging.WARNING):
        unitlab.ablate(features, unitlab.images(pairs), "0.conv3_2", units=[0], progress=False, device="cpu")
    (line,) = (line for line in caplog.messages if "RECOGNISES" in line)
    assert "not above chance" in line and "no logits" in line
