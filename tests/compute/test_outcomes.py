"""An outcome of the user's own, and top-k hits: what float64 hooks give, however a layer is ablated; tests as of margins."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
import xarray as xr
from oracle import Oracle
from small_networks import CLASSES, Concatenations, DominantUnit, FunctionalReLU, SqueezeExcite, Untraceable
from test_exactness import settled, source_of
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import unitlab
from unitlab import UnitlabError
from unitlab.compute.engine.ablation import donor_of_image
from unitlab.compute.sweep import plan as planning
from unitlab.compute.sweep.shards import ShardComputation

IMAGES = 40
OPTIONS: dict[str, Any] = {"progress": False, "device": "cpu"}
TARGETS = torch.linspace(-1, 1, IMAGES, dtype=torch.float64)


def probability(logits: Tensor, label: Tensor) -> Tensor:
    return logits.softmax(1).gather(1, label[:, None])[:, 0]


def other_labels_loss(logits: Tensor, label: Tensor) -> Tensor:
    """Minus the loss of two labels an image: its class and the next."""
    wanted = nn.functional.one_hot(label, CLASSES) + nn.functional.one_hot((label + 1) % CLASSES, CLASSES)
    return -nn.functional.binary_cross_entropy_with_logits(logits, wanted.to(logits), reduction="none").sum(1)


def regression_error(logits: Tensor, label: Tensor, image: Tensor) -> Tensor:
    """Minus the error of a number that is read from two logits, against a target of each image."""
    return -(logits[:, 1] - logits[:, 0] - TARGETS.to(logits)[image]).square()


OUTCOMES: list[Callable[..., Tensor]] = [probability, other_labels_loss, regression_error]
# replay, closed form of one position a unit and of several, hooks
WAYS = [
    (FunctionalReLU, "conv2"), (FunctionalReLU, "fc1"), (SqueezeExcite, "conv"), (Concatenations, "stem"),
    (DominantUnit, "relu"), (Untraceable, "conv"),
]  # fmt: skip


@functools.cache
def network(kind: type[nn.Module]) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(1)
    return settled(kind(), 17), torch.randn(IMAGES, 3, 17, 17) * torch.linspace(1, 9, IMAGES).reshape(-1, 1, 1, 1)


def exact_logits(ds: xr.Dataset, kind: type[nn.Module], **options: Any) -> Tensor:
    """By float64 hooks, (unit, image, category)."""
    module, _, call = ds.attrs["site"].partition("#")
    site = (module, int(call or 1) - 1)
    return Oracle(*network(kind), [site]).logits(site, ds.unit.values.tolist(), dim=ds.attrs["unit_dim"], **options)[0]


@pytest.mark.parametrize("ablation", ["zero", "mean", "resample"])
@pytest.mark.parametrize(("kind", "layer"), WAYS, ids=lambda value: getattr(value, "__name__", value))
def test_outcomes_and_top_k_are_those_of_float64_hooks(kind: type[nn.Module], layer: str, ablation: str) -> None:
    outcome = OUTCOMES[(len(layer) + len(ablation)) % len(OUTCOMES)]
    model, pixels = network(kind)
    source = source_of(pixels, CLASSES)
    ds = unitlab.ablate(model, source, layer, ablation=ablation, outcome=outcome, top_k=3, batch_size=16, **OPTIONS)
    donors, chosen = donor_of_image(IMAGES, 0)
    logits = exact_logits(ds, kind, ablation=ablation, donors=donors[chosen] if ablation == "resample" else None)
    with torch.no_grad():
        before = model.double()(pixels.double())
        model.float()
    label, where = torch.as_tensor(ds.label.values).long(), torch.arange(IMAGES)
    given = (label, where) if outcome is regression_error else (label,)
    unablated = outcome(before, *given)
    after = torch.stack([outcome(rows, *given) for rows in logits])
    size = float(after.abs().max())
    np.testing.assert_allclose(ds.baseline_outcome, unablated, atol=1e-5 * size)
    np.testing.assert_allclose(ds.outcome_drop, unablated - after, atol=1e-5 * size)
    assert ds.attrs["verified_outcomes_different"] == 0 and ds.attrs["outcome"] == outcome.__name__
    # the label's place among the logits, by sorting; near ties may go either way
    hit, hits = ((rows > rows.gather(-1, label.expand(rows.shape[:-1])[..., None])).sum(-1) < 3 for rows in (before, logits))
    lost = torch.stack([torch.bincount(label[hit & ~row], minlength=CLASSES) for row in hits])
    won = torch.stack([torch.bincount(label[~hit & row], minlength=CLASSES) for row in hits])
    near = np.abs(ds.n_broken_topk - lost.numpy()).sum() + np.abs(ds.n_fixed_topk - won.numpy()).sum()
    assert near <= 0.002 * logits[..., 0].numel() and int(lost.sum() + won.sum()) > 0
    drop = (ds.n_broken_topk - ds.n_fixed_topk) / ds.n_images
    np.testing.assert_allclose(ds.topk_accuracy_drop, drop)
    np.testing.assert_allclose(ds.topk_overall_drop, (drop * ds.n_images).sum("category") / IMAGES)
    np.testing.assert_allclose(ds.baseline_topk_accuracy, np.bincount(label[hit], minlength=CLASSES) / ds.n_images)


def test_directions_in_closed_form_and_by_replay_have_them_too() -> None:
    model, pixels = network(FunctionalReLU)
    for layer in ("fc1", "conv2"):
        options = {"outcome": probability, "basis": "random", "top_k": 2, **OPTIONS}
        ds = unitlab.ablate(model, source_of(pixels, CLASSES), layer, **options)
        basis = torch.as_tensor(ds.basis.values)
        logits = exact_logits(ds.assign_coords(unit=np.arange(ds.sizes["unit"])), FunctionalReLU, basis=basis)
        label = torch.as_tensor(ds.label.values).long()
        after = torch.stack([probability(rows, label) for rows in logits])
        np.testing.assert_allclose(ds.baseline_outcome.values - ds.outcome_drop, after, atol=1e-5)


@pytest.mark.parametrize("k", [2, 5, 30])
def test_top_k_in_closed_form_needs_only_the_classes_on_which_it_hangs(k: int) -> None:
    torch.manual_seed(k)
    model = nn.Sequential(nn.Conv2d(3, 24, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 60)).double()
    model[4].weight.data *= torch.logspace(-2, 1, 24).double()  # units that move little and much
    pixels, labels = torch.randn(60, 3, 9, 9) * torch.linspace(0.2, 4, 60).reshape(-1, 1, 1, 1), torch.arange(60)
    source = unitlab.images(TensorDataset(pixels, labels), categories=[f"class {c}" for c in range(60)])
    with torch.no_grad():
        features = model[3](model[2](model[1](model[0](pixels.double()))))
        before = model[4](features)
        after = before - features.t()[:, :, None] * model[4].weight.t()[:, None]
    ds = unitlab.ablate(model.eval(), source, "1", top_k=k, **OPTIONS)
    assert "closed form" in ds.attrs["strategy"]
    hit, hits = ((one.argsort(-1, descending=True)[..., :k] == labels[:, None]).any(-1).numpy() for one in (before, after))
    np.testing.assert_array_equal(ds.baseline_topk_accuracy, hit)
    np.testing.assert_array_equal(ds.n_broken_topk, hit & ~hits)
    np.testing.assert_array_equal(ds.n_fixed_topk, ~hit & hits)
    assert ds.n_broken_topk.sum() > 4 and ds.n_broken_topk.sum() + ds.n_fixed_topk.sum() > 15


@functools.cache
def study() -> xr.Dataset:
    model, pixels = network(FunctionalReLU)
    return unitlab.ablate(model, source_of(pixels, CLASSES), "conv2", outcome=probability, **OPTIONS)


def test_damage_tells_outcomes_as_paired_t_tests() -> None:
    ds, found = study(), unitlab.damage(study(), progress=False)
    for unit in (0, 5, 11):
        drop = ds.outcome_drop.values[unit].astype(float)
        test = scipy.stats.ttest_1samp(drop, 0)
        assert found.overall_outcome_drop.values[unit] == pytest.approx(drop.mean())
        assert found.p_overall_outcome.values[unit] == pytest.approx(test.pvalue)
        limits = test.confidence_interval(1 - 0.05 / ds.sizes["unit"])
        assert found.overall_outcome_drop_low.values[unit] == pytest.approx(limits.low)
        some = drop[ds.label.values == 4]
        assert found.class_outcome_drop.values[unit, 4] == pytest.approx(some.mean())
        assert found.outcome_p_value.values[unit, 4] == pytest.approx(scipy.stats.ttest_1samp(some, 0).pvalue)
    assert (found.q_overall_outcome >= found.p_overall_outcome).all()
    assert "overall_outcome_drop" not in unitlab.damage(unitlab.load("vgg_fashion").isel(unit=slice(2)), progress=False)


def test_clusters_widen_what_damage_says_of_outcomes() -> None:
    ds = study()
    pairs = xr.concat([ds, ds], "image", data_vars="minimal", coords="minimal", compat="override", join="override")
    pairs = pairs.assign_coords(image=[f"{i}" for i in range(2 * IMAGES)]).assign(
        n_images=2 * ds.n_images, n_broken=2 * ds.n_broken, n_fixed=2 * ds.n_fixed, n_predicted=2 * ds.n_predicted,
        cluster=("image", np.tile(np.arange(IMAGES), 2)),
    )  # fmt: skip
    once, twice = unitlab.damage(ds, progress=False), unitlab.damage(pairs, progress=False)
    np.testing.assert_allclose(twice.p_overall_outcome, once.p_overall_outcome, rtol=1e-6)
    np.testing.assert_allclose(twice.class_outcome_drop_high, once.class_outcome_drop_high, rtol=1e-6)


def test_a_stored_study_resumes_and_another_outcome_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, pixels = network(FunctionalReLU)
    source, store = source_of(pixels, CLASSES), tmp_path / "study.zarr"
    monkeypatch.setattr(planning, "SHARD_IMAGES", 8)
    options = {"batch_size": 8, "store": store, "top_k": 3, **OPTIONS}
    whole = unitlab.ablate(model, source, "conv2", outcome=probability, **{**options, "store": None})
    with monkeypatch.context() as patch:
        left, real = iter(range(2)), ShardComputation.begin

        def interrupted(self: ShardComputation, *given: Any) -> Any:
            if next(left, None) is None:
                raise KeyboardInterrupt
            return real(self, *given)

        patch.setattr(ShardComputation, "begin", interrupted)
        with pytest.raises(KeyboardInterrupt):
            unitlab.ablate(model, source, "conv2", units=[0, 3], outcome=probability, **options)
    with pytest.raises(UnitlabError, match="unfinished sweep with other outcome"):
        unitlab.ablate(model, source, "conv2", units=[0, 3], outcome=other_labels_loss, **options)
    unitlab.ablate(model, source, "conv2", units=[0, 3], outcome=probability, **options)
    # further units of it; what is open is as in the store
    found = unitlab.ablate(model, source, "conv2", outcome=probability, **{**options, "top_k": None}).load()
    for name in ("prediction", "outcome_drop", "baseline_outcome", "n_broken_topk", "n_fixed_topk", "baseline_topk_accuracy"):
        np.testing.assert_array_equal(found[name], whole[name])
    with pytest.raises(UnitlabError, match="with other outcome"):
        unitlab.ablate(model, source, "conv2", outcome=("another", probability), **options)
    with pytest.raises(UnitlabError, match="with other top_k"):
        unitlab.ablate(model, source, "conv2", outcome=probability, **{**options, "top_k": 2})
    assert unitlab.verify(store, model, source, sample=99, outcome=probability, device="cpu").outcomes_different == 0
    with pytest.raises(UnitlabError, match="holds the outcome probability"):
        unitlab.verify(store, model, source, outcome=other_labels_loss, device="cpu")


def test_verify_finds_outcomes_that_are_wrong() -> None:
    model, pixels = network(FunctionalReLU)
    source, ds = source_of(pixels, CLASSES), study().copy(deep=True)
    ds.outcome_drop.values[3] += 0.01
    found = unitlab.verify(ds, model, source, sample=12 * IMAGES, outcome=probability, device="cpu")
    assert (found.different, found.outcomes_different) == (0, IMAGES) and found.first_difference.startswith("unit 3, image")
    assert unitlab.verify(ds, model, source, sample=20, device="cpu").outcomes_different is None


def test_the_fingerprint_knows_code_and_the_numbers_that_it_refers_to() -> None:
    from unitlab.compute.engine.scores import Scoring

    def made(power: float, weights: Any) -> Scoring:
        return Scoring(0, lambda logits, label: logits.pow(power)[:, 0] * weights[0], "f")

    same = made(2.0, torch.ones(3))
    assert same.text == made(2.0, torch.ones(3)).text and same.text.startswith("f ")
    assert (
        len({same.text, made(3.0, torch.ones(3)).text, made(2.0, torch.zeros(3)).text, Scoring(0, probability, "f").text}) == 4
    )


BAD: list[tuple[Any, str]] = [
    (lambda z, y: z.mean(), r"gives a tensor \(\) for"),
    (lambda z, y: z, r"gives a tensor \(8, 7\)"),
    (lambda z, y: z[:, 0].tolist(), "gives a list"),
    (lambda z, y: z[:, 0] / 0, "gives"),
    (lambda z, y: z[:, 0].log() * torch.nan, "gives .*nan"),
    (lambda z, y: z[:, 0] - z[:, 0].mean(), "another number beside other rows"),
    (lambda z: z[:, 0], "fails on 8 rows of 7 logits"),
    (lambda z, y: z[:, 99], "fails on 8 rows of 7 logits"),
    ("probability", "is no function"),
    (("", probability), "is no function"),
    (("p", probability, 3), "is no function"),
]


@pytest.mark.parametrize("place", range(len(BAD)))
def test_what_cannot_work_is_refused(place: int) -> None:
    outcome, message = BAD[place]
    model, pixels = network(FunctionalReLU)
    with pytest.raises(UnitlabError, match=message):
        unitlab.ablate(model, source_of(pixels, CLASSES), "conv2", outcome=outcome, **OPTIONS)


def test_an_outcome_that_is_undefined_under_an_ablation_names_the_image() -> None:
    model, pixels = network(FunctionalReLU)
    with torch.no_grad():
        least = model(pixels)[:, 0].min()

    def undefined_under_ablation(logits: Tensor, label: Tensor) -> Tensor:
        return torch.where(logits[:, 0] < least - 1e-4, torch.nan, logits[:, 0])

    with pytest.raises(UnitlabError, match=r"NaN or infinite for image '\d+'"):
        unitlab.ablate(model, source_of(pixels, CLASSES), "conv2", outcome=undefined_under_ablation, **OPTIONS)


def test_bfloat16_has_no_outcome_and_its_top_k_is_exact() -> None:
    model, pixels = network(FunctionalReLU)
    with pytest.raises(UnitlabError, match="no outcome"):
        unitlab.ablate(model, source_of(pixels, CLASSES), "conv2", outcome=probability, precision="bfloat16", **OPTIONS)
    found = [
        unitlab.ablate(model, source_of(pixels, CLASSES), "conv2", top_k=2, precision=precision, **OPTIONS)
        for precision in ("float32", "bfloat16")
    ]
    for name in ("n_broken_topk", "n_fixed_topk"):
        np.testing.assert_array_equal(found[0][name], found[1][name])


def test_five_of_a_hundred_classes_are_counted_and_none_of_few() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 120)).eval()
    pixels = torch.randn(30, 3, 9, 9)
    source = unitlab.images(TensorDataset(pixels, torch.arange(30)), categories=[f"class {k}" for k in range(120)])
    ds = unitlab.ablate(model, source, "0", labels="predicted", **OPTIONS)
    assert ds.attrs["top_k"] == 5 and ds.n_broken_topk.dims == ("unit", "category")
    with torch.no_grad():
        logits = model.double()(pixels.double())
        model.float()
    assert (logits.argmax(1).numpy() == ds.label.values).mean() > 0.95
    assert float((ds.baseline_topk_accuracy * ds.n_images).sum()) == 30
    assert "top_k" not in study().attrs and "n_broken_topk" not in study()
    with pytest.raises(UnitlabError, match="give 2 to 119"):
        unitlab.ablate(model, source, "0", labels="predicted", top_k=120, **OPTIONS)
    with pytest.raises(UnitlabError, match="number of classes"):
        unitlab.ablate(model, source, "0", labels="predicted", top_k=-1, **OPTIONS)
