"""Pairs of units beside their units, and Shapley values: by hand, by t tests, on games with a known answer."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import scipy.stats
import torch
import xarray as xr
from torch import nn
from torch.utils.data import TensorDataset

import unitlab
from unitlab import UnitlabError
from unitlab.compute.images.source import ImageSource

PAIRS = {"copies": [0, 1], "apart": [0, 2], "needed": [3, 4]}
OPTIONS = {"progress": False, "device": "cpu"}


class Planted(nn.Module):
    """Class 0 rests on units 0 or 1, which are alike, and class 2 on unit 2; classes 0 and 1 are told apart by these alone."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 5, 1, bias=False), nn.Linear(5, 3)
        with torch.no_grad():
            self.conv.weight[:, :, 0, 0] = torch.tensor([[1.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1]])
            # either copy is enough against the bias of class 1
            self.fc.weight[:] = torch.tensor([[2.0, 2, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 3, 0.3, 0.3]])
            self.fc.bias[:] = torch.tensor([0.0, 1, 0])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.relu(self.conv(x)).mean((2, 3)))


def images(clusters: bool = False) -> ImageSource:
    torch.manual_seed(0)
    labels = torch.arange(60) % 3
    centre = torch.tensor([[1.0, 0, 0], [0, 0, 0.6], [0, 1, 0.5]])[labels]
    pixels = (centre[:, :, None, None] + 0.4 * torch.randn(60, 3, 3, 3)).clamp(min=0)
    given = {"clusters": np.arange(60) // 6} if clusters else {}
    return unitlab.images(TensorDataset(pixels, labels), categories=["a", "b", "c"], **given)


def both(clusters: bool = False) -> tuple[xr.Dataset, xr.Dataset]:
    model, source = Planted().eval(), images(clusters)
    return unitlab.ablate_groups(model, source, "conv", PAIRS, **OPTIONS), unitlab.ablate(model, source, "conv", **OPTIONS)


@pytest.mark.parametrize("clusters", [False, True])
def test_interactions_are_means_over_images_with_paired_t_tests(clusters: bool) -> None:
    pairs, ds = both(clusters)
    found = unitlab.interaction(pairs, ds)
    assert [*zip(found.unit_i.values.tolist(), found.unit_j.values.tolist(), strict=True)] == [(0, 1), (0, 2), (3, 4)]
    right = ds.baseline_prediction.values == ds.label.values

    def drops(predictions: np.ndarray) -> np.ndarray:
        return right.astype(int) - (predictions == ds.label.values)

    for place, (i, j) in enumerate(PAIRS.values()):
        by_image = drops(pairs.prediction.values[place]) - drops(ds.prediction.values[i]) - drops(ds.prediction.values[j])
        margins = pairs.label_margin_drop.values[place].astype(float)
        margins = margins - ds.label_margin_drop.values[i].astype(float) - ds.label_margin_drop.values[j].astype(float)
        for name, values in (("overall_interaction", by_image), ("overall_margin_interaction", margins)):
            assert float(found[name][place]) == pytest.approx(values.mean())
            if np.ptp(values) == 0:
                assert np.isnan(found[f"{name}_low"][place]) and found[f"{name}_p_value"][place] in (0, 1)
                continue
            sample = values.reshape(10, 6).mean(1) if clusters else values
            test = scipy.stats.ttest_1samp(sample, 0)
            assert float(found[f"{name}_p_value"][place]) == pytest.approx(test.pvalue)
            assert float(found[f"{name}_high"][place]) == pytest.approx(test.confidence_interval().high)
        for k in range(3):
            assert float(found.interaction[place, k]) == pytest.approx(by_image[ds.label.values == k].mean())
            drop = pairs.accuracy_drop[place, k] - ds.accuracy_drop[i, k] - ds.accuracy_drop[j, k]
            assert float(found.interaction[place, k]) == pytest.approx(float(drop), abs=1e-12)


def test_units_that_stand_in_for_each_other_cost_more_together() -> None:
    found = unitlab.interaction(*both())
    copies = found.sel(pair="copies")
    assert copies.interaction.sel(category="a") > 0.5 and copies.interaction_q_value.sel(category="a") < 0.01
    assert abs(found.sel(pair="needed").overall_interaction) < 0.05


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p, d: (d, d), "groups of two units"),
        (lambda p, d: (p.assign(member=p.member | True), d), "has 5 units"),
        (lambda p, d: (p, d.isel(unit=[0, 1])), "no unit 2"),
        (lambda p, d: (p.assign_attrs(site="other"), d), "differ in site"),
        (lambda p, d: (p.assign_attrs(fingerprint_weights="x"), d), "differ in weights"),
        (lambda p, d: (p, d.assign(label=(d.label + 1) % 3)), "'label' differs"),
        (lambda p, d: (p, p), "single units"),
    ],
)
def test_what_does_not_belong_together_is_refused(change: object, message: str) -> None:
    with pytest.raises(UnitlabError, match=message):
        unitlab.interaction(*change(*both()))


def test_an_older_study_that_does_not_say_its_unit_dimension_is_taken() -> None:
    pairs, ds = both()
    older = ds.copy()
    assert older.attrs.pop("unit_dim") == 1
    xr.testing.assert_identical(unitlab.interaction(pairs, older).drop_attrs(), unitlab.interaction(pairs, ds).drop_attrs())


def test_shapley_values_are_those_over_all_orders() -> None:
    model, source = Planted().eval(), images()
    every = [list(order) for order in permutations(range(5))]
    subsets = {frozenset(order[:k]) for order in every for k in range(6)}
    groups = [sorted(one) for one in subsets]
    ds = unitlab.ablate_groups(model, source, "conv", groups, **OPTIONS)
    value = dict(zip(map(frozenset, groups), ((ds.prediction == ds.label).mean("image")).values.tolist(), strict=True))
    exact = np.zeros(5)
    for order in every:
        for k, unit in enumerate(order):
            exact[unit] += (value[frozenset(order[:k])] - value[frozenset(order[: k + 1])]) / len(every)
    for keep in (False, True):
        curves = unitlab.cumulative(model, source, "conv", "random", n_random=150, ks=range(6), keep=keep, **OPTIONS)
        found = unitlab.shapley(curves)
        assert (abs(found.shapley_drop - exact) < 4 * found.shapley_drop_error + 1e-12).all()
        assert float(found.shapley_drop.sum()) == pytest.approx(value[frozenset()] - value[frozenset(range(5))])
        total = (found.class_shapley_drop * curves.n_images).sum("category") / 60
        np.testing.assert_allclose(total, found.shapley_drop, atol=1e-6)
    with pytest.raises(UnitlabError, match=r"ks=range\(6\)"):
        unitlab.shapley(unitlab.cumulative(model, source, "conv", "random", ks=[0, 5], **OPTIONS))
    with pytest.raises(UnitlabError, match="random orders"):
        unitlab.shapley(unitlab.cumulative(model, source, "conv", [0, 1], **OPTIONS))
