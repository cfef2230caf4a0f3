"""Networks that return something else than a tensor of logits: the study is that of the logits, and says what was taken."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import xarray as xr
from oracle import assert_exact
from small_networks import CLASSES
from torch import Tensor, nn
from torch.utils.data import TensorDataset
from torchvision.models import googlenet, inception_v3

import unitlab
from unitlab import UnitlabError
from unitlab.compute.images.source import ImageSource

COUNT = 24


def source(categories: int = CLASSES, size: int = 17, count: int = COUNT) -> ImageSource:
    torch.manual_seed(3)
    pictures = TensorDataset(torch.randn(count, 3, size, size), torch.arange(count) % categories)
    return unitlab.images(pictures, categories=[f"class {k}" for k in range(categories)])


class Logits(nn.Module):
    """The network that all others here are made of."""

    def __init__(self, categories: int = CLASSES) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.conv1, self.norm, self.conv2 = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 10, 3)
        self.fc = nn.Linear(10, categories)
        self.features = [torch.zeros(1)]

    def values(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv2(F.relu(self.norm(self.conv1(x)))))
        return self.fc(x.mean((2, 3))) * 20

    def forward(self, x: Tensor) -> Any:
        return self.values(x)


@dataclass
class Result:
    loss: None
    logits: Tensor


Pair = namedtuple("Pair", ["scores", "features"])
Aux = namedtuple("Aux", ["aux", "logits"])


def returning(change: Callable[[Tensor], Any], categories: int = CLASSES) -> nn.Module:
    class Changed(Logits):
        def forward(self, x: Tensor) -> Any:
            return change(self.values(x))

    return Changed(categories).eval()


class InBranches(Logits):
    """Control flow on values, which torch.fx cannot trace, before the softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.softmax = nn.Softmax(1)

    def forward(self, x: Tensor) -> Tensor:
        z = self.values(x)
        return self.softmax(z if float(z.sum()) > -1e9 else -z)


class ModuleSoftmax(Logits):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.Identity(), nn.Softmax(1), nn.Dropout(0.5))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.values(x))


class FlatSoftmax(Logits):
    """A softmax over maps of one pixel, which are flattened behind it."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(self.values(x)[:, :, None, None], dim=1).flatten(1)


class Keyword(Logits):
    def forward(self, *, pixel_values: Tensor) -> Tensor:
        return self.values(pixel_values)


class Labelled(Logits):
    def forward(self, pixel_values: Tensor, labels: Tensor | None = None, return_dict: bool = True) -> dict[str, Tensor]:
        z = self.values(pixel_values)
        return {"logits": z} if labels is None else {"loss": F.cross_entropy(z, labels), "logits": z}


class TextFirst(Logits):
    def forward(self, input_ids: Tensor | None = None, pixel_values: Tensor | None = None) -> Tensor:
        return self.values(pixel_values)


def ablate(model: nn.Module, images: ImageSource | None = None, layer: str = "conv1", **options: Any) -> xr.Dataset:
    return unitlab.ablate(model, images or source(), layer, progress=False, device="cpu", **options)


def assert_same_study(found: xr.Dataset, expected: xr.Dataset) -> None:
    np.testing.assert_array_equal(found.prediction, expected.prediction)
    np.testing.assert_allclose(found.baseline_margin, expected.baseline_margin, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.label_margin_drop, expected.label_margin_drop, rtol=2e-3, atol=5e-3)
    np.testing.assert_allclose(found.class_correlation, expected.class_correlation, atol=1e-4)
    assert found.attrs["verified_different"] == 0


ELEMENTS: dict[str, tuple[nn.Module, str]] = {
    "tensor": (Logits().eval(), "as returned"),
    "dict": (returning(lambda z: {"loss": None, "logits": z}), "the element 'logits' of dict"),
    "dict of one": (returning(lambda z: {"out": z}), "the element 'out' of dict"),
    "object": (returning(lambda z: Result(None, z)), "the element 'logits' of Result"),
    "tuple": (returning(lambda z: (z, z * 2, "more")), "the element 0 of tuple"),
    "list": (returning(lambda z: [z]), "the element 0 of list"),
    "named tuple": (returning(lambda z: Pair(z, z.sum(1))), "the element 0 of Pair"),
    "named tuple with logits": (returning(lambda z: Aux(z * 2, z)), "the element 'logits' of Aux"),
    "maps of one pixel": (returning(lambda z: z[:, :, None, None]), "squeezed from (image, 7, 1, 1)"),
    "one token": (returning(lambda z: z[:, None]), "squeezed from (image, 1, 7)"),
    "dict of maps": (
        returning(lambda z: {"logits": z[..., None, None]}),
        "the element 'logits' of dict; squeezed from (image, 7, 1, 1)",
    ),
    "squeeze()": (returning(lambda z: z.squeeze()), "squeezed to (image, 7)"),
    "keyword-only": (Keyword().eval(), "images given as pixel_values"),
    "labels=None": (Labelled().eval(), "the element 'logits' of dict"),
    "second argument": (TextFirst().eval(), "images given as pixel_values"),
    "softmax": (returning(lambda z: F.softmax(z, 1)), "the value before its final softmax"),
    "softmax method": (returning(lambda z: z.softmax(-1)), "the value before its final softmax"),
    "softmax module": (ModuleSoftmax().eval(), "the value before its final softmax 'head.1'"),
    "softmax in branches": (InBranches().eval(), "the value before its final softmax 'softmax'"),
    "softmax in a dict": (
        returning(lambda z: {"probs": torch.softmax(z, 1)}),
        "the element 'probs' of dict; the value before its final softmax",
    ),
    "softmax over maps": (FlatSoftmax().eval(), "the value before its final softmax"),
    "log-softmax": (returning(lambda z: F.log_softmax(z, 1)), "as returned"),
    "sigmoids": (returning(lambda z: torch.sigmoid(z)), "the value before its final sigmoid"),
}


@pytest.mark.parametrize("ablation", ["zero", "mean"])
@pytest.mark.parametrize("name", list(ELEMENTS))
def test_the_study_is_that_of_the_logits(name: str, ablation: str) -> None:
    model, text = ELEMENTS[name]
    found = ablate(model, ablation=ablation)
    assert found.attrs["output"] == text
    assert ("forward hooks" in found.attrs["strategy"]) == (name == "softmax in branches")
    plain = Logits().eval()
    expected = ablate(plain, ablation=ablation)
    assert_same_study(found, expected)
    pixels = source().at(range(COUNT))
    assert_exact(plain, pixels, "conv1", 0, list(range(8)), found.prediction.values, ablation=ablation)
    assert unitlab.verify(found, model, source(), sample=64, device="cpu").different == 0


def test_a_layer_behind_the_logits_is_refused() -> None:
    with pytest.raises(UnitlabError, match=r"the logits do not depend on what 'head\.1' returns"):
        ablate(ModuleSoftmax().eval(), layer="head.1")
    with pytest.raises(UnitlabError, match="a layer that is ablated behind the softmax"):
        ablate(InBranches().eval(), layer="softmax")
    found = ablate(InBranches().eval(), layer="softmax", output=lambda p: p.clamp_min(1e-30).log())
    assert found.attrs["verified_different"] == 0


def test_a_softmax_that_cannot_be_found_is_undone_by_the_logarithm() -> None:
    ensemble = returning(lambda z: (F.softmax(z, 1) + F.softmax(z * 0.9, 1)) / 2)
    found = ablate(ensemble)
    assert found.attrs["output"].startswith("the logarithm of its probabilities, of 1.18e-38 at least")
    by_hand = returning(lambda z: ((F.softmax(z, 1) + F.softmax(z * 0.9, 1)) / 2).log())
    assert_same_study(found, ablate(by_hand))
    # probabilities that are zero in float32: the logarithm of the smallest normal number
    sharp = returning(lambda z: F.softmax(z * 1e4, 1) * 1.0)
    margins = ablate(sharp).baseline_margin.values
    assert np.isfinite(margins).all() and np.abs(margins).max() == pytest.approx(-np.log(np.finfo(np.float32).tiny), rel=1e-6)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda z: z, ""),
        (lambda z: z[:, 0], "squeezed from (image); "),
        (lambda z: z.squeeze(), "squeezed from (image); "),
        (torch.sigmoid, "the value before its final sigmoid; "),
        (lambda z: torch.sigmoid(z).squeeze(1), "squeezed from (image); the value before its final sigmoid; "),
    ],
)
def test_one_logit_is_two_classes(change: Callable[[Tensor], Tensor], text: str) -> None:
    found = ablate(returning(change, 1), source(2))
    assert found.attrs["output"] == f"{text}its one value z as two classes with the logits (−z/2, z/2)"
    by_hand = returning(lambda z: torch.cat([-z / 2, z / 2], 1), 1)
    assert_same_study(found, ablate(by_hand, source(2)))
    pixels = source(2).at(range(COUNT))
    with torch.no_grad():
        z = returning(lambda z: z, 1)(pixels)[:, 0].numpy()
    np.testing.assert_array_equal(found.baseline_prediction, z > 0)
    # the margin of the label is the logit, with the label's sign
    np.testing.assert_allclose(found.baseline_margin, np.where(source(2).labels == 1, z, -z), rtol=1e-4, atol=1e-5)


def test_one_value_within_0_and_1_is_refused_unless_output_says() -> None:
    probability = returning(lambda z: (torch.tanh(z) + 1) / 2, 1)
    with pytest.raises(UnitlabError, match=r"one value within \[0, 1\].*output=lambda"):
        ablate(probability, source(2))
    found = ablate(probability, source(2), output=lambda p: torch.logit(p))
    assert_same_study(found, ablate(returning(lambda z: 2 * z, 1), source(2)))


def test_output_says_which_element() -> None:
    model = returning(lambda z: {"logits": z, "student": -z})
    negative = ablate(returning(lambda z: -z))
    for output in ("student", 1, lambda returned: returned["student"]):
        found = ablate(model, output=output)
        assert_same_study(found, negative)
        if callable(output):
            with pytest.raises(UnitlabError, match="give it again as output="):
                unitlab.verify(found, model, source(), sample=8, device="cpu")
            again = unitlab.verify(found, model, source(), sample=32, device="cpu", output=output)
        else:
            again = unitlab.verify(found, model, source(), sample=32, device="cpu")
        assert again.different == 0
    with pytest.raises(UnitlabError, match=r"the study's logits are the element 1 of dict, and here"):
        unitlab.verify(ablate(model, output=1), model, source(), sample=8, device="cpu", output=0)


def test_groups_curves_and_estimates_take_output() -> None:
    model, plain = returning(lambda z: (z, -z)), returning(lambda z: -z)
    options: dict[str, Any] = {"progress": False, "device": "cpu"}
    groups = [[0, 1], [0, 1, 2]]
    found = unitlab.ablate_groups(model, source(), "conv1", groups, output=1, **options)
    expected = unitlab.ablate_groups(plain, source(), "conv1", groups, **options)
    np.testing.assert_array_equal(found.prediction, expected.prediction)
    assert found.attrs["output"] == "the element 1 of tuple" and found.attrs["verified_different"] == 0
    curve = unitlab.cumulative(model, source(), "conv1", "overall_drop", ks=[0, 2, 4], output=1, **options)
    expected = unitlab.cumulative(plain, source(), "conv1", "overall_drop", ks=[0, 2, 4], **options)
    np.testing.assert_array_equal(curve.curve_prediction, expected.curve_prediction)
    assert "output=1" in str(unitlab.estimate(model, source(), "conv1", output=1, device="cpu"))


@pytest.mark.parametrize(
    ("model", "output", "message"),
    [
        (returning(lambda z: {"a": z, "b": z}), None, r"dict with 'a': \(2, 7\), 'b': \(2, 7\); say which"),
        (returning(lambda z: {"a": z, "b": z}), "c", r"output='c': the network returns dict with 'a'"),
        (returning(lambda z: (z.sum(), z)), None, r"the element 0 of tuple gives \(\) for 2 images"),
        (returning(lambda z: (z, z)), 5, r"output=5"),
        (returning(lambda z: z[:, :, None, None].expand(-1, -1, 4, 4)), None, r"\(2, 7, 4, 4\) for 2 images.*mean\(\(2, 3\)\)"),
        (returning(lambda z: "seven"), None, "returns a str"),
        (returning(lambda z: z.argmax(1)), None, r"values of type torch\.int64"),
        (returning(lambda z: z.sum()), None, r"\(\) for 2 images"),
        (Logits().eval(), 0, "leave output out"),
        (Logits().eval(), lambda z: z.nothing, "output= fails on what the network returns"),
        (Logits().eval(), True, "tells no element"),
        (Logits().eval(), 1.5, "tells no element"),
    ],
)
def test_what_cannot_be_read_is_refused_with_what_there_is(model: nn.Module, output: Any, message: str) -> None:
    with pytest.raises(UnitlabError, match=message):
        ablate(model, output=output)


def test_forwards_that_need_more_than_images_are_refused() -> None:
    class Two(Logits):
        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            return self.values(x) * mask

    class Keywords(Logits):
        def forward(self, *, left: Tensor, right: Tensor) -> Tensor:
            return self.values(left)

    with pytest.raises(UnitlabError, match=r"needs 'x', 'mask', not images alone"):
        ablate(Two().eval())
    with pytest.raises(UnitlabError, match=r"does not tell which argument takes the images"):
        ablate(Keywords().eval())


@pytest.mark.parametrize("kind", [googlenet, inception_v3])
def test_networks_with_auxiliary_heads(kind: Callable[..., nn.Module]) -> None:
    torch.manual_seed(0)
    model = kind(init_weights=False, num_classes=5, aux_logits=True, transform_input=False).train()
    images = source(5, 96 if kind is inception_v3 else 64, 4)
    layer = "inception5b.branch1" if kind is googlenet else "Mixed_7c.branch1x1"
    found = ablate(model, images, layer, units=[0, 3])
    assert found.attrs["output"] == "as returned" and found.attrs["verified_different"] == 0
    assert_exact(model.eval(), images.at(range(4)), layer, 0, [0, 3], found.prediction.values)


def test_a_network_that_returns_its_auxiliary_logits_in_eval_mode() -> None:
    class Scripted(nn.Module):
        """As GoogLeNet when it is scripted."""

        def __init__(self) -> None:
            super().__init__()
            self.inside = googlenet(init_weights=False, num_classes=5, aux_logits=True, transform_input=False).eval()

        def forward(self, x: Tensor) -> Any:
            z = self.inside(x)
            return self.inside.eager_outputs.__globals__["GoogLeNetOutputs"](z, None, None)

    torch.manual_seed(0)
    found = ablate(Scripted().eval(), source(5, 64, 4), "inside.inception5b.branch1", units=[0])
    assert found.attrs["output"] == "the element 'logits' of GoogLeNetOutputs"


def hugging_face(kind: str, **options: Any) -> tuple[nn.Module, Any]:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {
        "ResNet": {"embedding_size": 8, "hidden_sizes": [8, 12], "depths": [1, 1]},
        "ConvNext": {"num_stages": 2, "hidden_sizes": [8, 12], "depths": [1, 1]},
        "DeiT": {
            "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24, "image_size": 32,
            "patch_size": 8,
        },
    }[kind]  # fmt: skip
    return transformers, getattr(transformers, f"{kind}Config")(**sizes, num_labels=CLASSES, **options)


@pytest.mark.parametrize(
    ("kind", "head", "layer"),
    [
        ("ResNet", "ForImageClassification", "resnet.encoder.stages.0"),
        ("ConvNext", "ForImageClassification", "convnext.encoder.stages.0.layers.0.dwconv"),
        ("DeiT", "ForImageClassificationWithTeacher", "deit.embeddings.patch_embeddings.projection"),
    ],
)
def test_hugging_face_networks(kind: str, head: str, layer: str) -> None:
    transformers, config = hugging_face(kind)
    model = getattr(transformers, kind + head)(config)
    images = source(size=32, count=6)
    found = ablate(model, images, layer, units=[0, 1, 5])
    assert found.attrs["output"].startswith("the element 'logits' of ") and found.attrs["verified_different"] == 0

    class ByHand(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inside = model.eval()

        def forward(self, x: Tensor) -> Tensor:
            return self.inside(x).logits

    assert_exact(ByHand(), images.at(range(6)), f"inside.{layer}", 0, [0, 1, 5], found.prediction.values)
    assert unitlab.verify(found, model, images, sample=8, device="cpu").different == 0


def test_a_network_without_a_classifier_is_refused_with_what_it_returns() -> None:
    transformers, config = hugging_face("ResNet")
    backbone = transformers.ResNetModel(config)
    with pytest.raises(UnitlabError, match=r"'last_hidden_state': \(2, 12, .*'pooler_output': \(2, 12, 1, 1\); say which"):
        ablate(backbone, source(size=32, count=6), "encoder.stages.0")
    images = source(12, 32, 12)
    found = ablate(backbone, images, "encoder.stages.0", units=[0], output="pooler_output")
    assert found.attrs["output"] == (
        "the element 'pooler_output' of BaseModelOutputWithPoolingAndNoAttention; squeezed from (image, 12, 1, 1)"
    )


def test_an_unfinished_study_of_other_output_is_refused(tmp_path: Path) -> None:
    store = tmp_path / "study.zarr"
    model = returning(lambda z: (z, -z))
    ablate(model, store=store)
    assert ablate(model, store=store).attrs["output"] == "the element 0 of tuple"
    with pytest.raises(UnitlabError, match="computed with other output"):
        ablate(model, store=store, output=1)
