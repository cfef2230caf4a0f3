"""What a study is described by is what it holds, and what `unitlab.damage` says of it."""

from __future__ import annotations

import re

import numpy as np
import pytest
from scipy import stats
from simulated_study import simulated_study

import unitlab


def rows_of(text: str) -> dict[str, str]:
    return dict(re.findall(r"^\| (.+) \| (.+) \|$", text, re.MULTILINE))


@pytest.mark.parametrize("clusters", [None, 150])
def test_numbers_are_those_of_damage(clusters: int | None) -> None:
    ds = simulated_study(12, 5, 600, 2, flip_rate=0.1, specific_unit=4, specific_category=2, clusters=clusters, dead_units=(7,))
    damage, text = unitlab.damage(ds), unitlab.describe(ds)
    rows = rows_of(text)
    assert rows["overall drop, median unit"] == f"{100 * float(damage.overall_drop.median()):.2f} points".replace("-", "−")
    assert rows["no unit costs more overall than (95 %, one-sided)"] == f"{100 * float(damage.overall_drop_bound):.2f} points"
    q = stats.false_discovery_control(damage.p_specific.values)
    assert rows["units that damage specific classes (q ≤ 0.05)"] == f"{int((q <= 0.05).sum())} of 12"
    assert rows["unit–class pairs damaged (q ≤ 0.05)"] == f"{int(damage.damaged.sum())} of 60"
    assert rows["pairs in which enough images change for a test"] == f"{damage.attrs['n_tested']} of 60"
    most = damage.sel(unit=4)
    assert damage.max_class_drop_crossfit.values.argmax() == 4
    drop, low, high = (f"{100 * float(most[f'max_class_drop_crossfit{end}']):.2f}" for end in ("", "_low", "_high"))
    told = rows["unit 4: largest class drop, cross-fitted"]
    assert told == f"{drop} points ({low} to {high}, all units at once)".replace("-", "−")
    assert rows["… its p, specific classes"] == f"{float(most.p_specific):.3g}"
    assert rows["… its raw maximum, of “class 2” (biased upward)"] == f"{100 * float(most.max_class_drop):.2f} points"
    assert damage.attrs["tested"] in text and "1 units are never active on these images (7)" in text
    right = float((ds.label == ds.baseline_prediction).mean())
    assert f"Before ablation {right:.1%} were right (95 % interval" in text
    assert ("in 150 clusters" in text and "sign flips" in text) == (clusters is not None)
    assert ("the exact McNemar test" in text) == (clusters is None)


def test_methods_are_the_study_s_own() -> None:
    text = unitlab.describe("vgg_emoji")
    ds = unitlab.load("vgg_emoji")
    for said in (
        "Each of the 64 units of the layer conv5_2 (features.relu5_2) of the network “VGG style, batch norm”",
        "was set to zero, one at a time, in float32", "4,428 images of emoji, in 2,543 clusters, in 60 classes",
        f"{ds.attrs['verified_compared']} (unit, image) pairs were compared with plain forward hooks: 0 differed",
        "61.4% is recorded", "mean over 100 splits", ds.attrs["versions"],
    ):  # fmt: skip
        assert said in text, said
    assert text._repr_markdown_() == text


def test_what_a_study_does_not_say_is_not_said_and_names_are_text() -> None:
    ds = simulated_study(6, 4, 80, 1, empty_categories=(3,)).isel(unit=slice(4))
    ds = ds.assign_coords(category=["<b>bold</b>", "a|b", "c", "d"])
    ds.attrs |= {"channels": 6, "network": "<script>alert(1)</script> *x* | y $z$", "ablation": "mean", "labels": "predicted"}
    text = unitlab.describe(ds)
    assert "<script>" not in text and "<b>" not in text and r"\*x\* \| y \$z\$" in text
    assert "Each of 4 of 6 units (0-3)" in text and "set to its mean over all images and positions" in text
    assert "2 of the layer's 6 units were not ablated." in text and "1 of 4 classes have no image" in text
    assert "Before ablation" not in text and "compared with the network's own predictions" in text
    assert "No sample was compared with plain forward hooks." in text and "nan" not in text.lower().replace("nano", "")
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 3 for line in text.splitlines() if line.startswith("|"))
    with pytest.raises(unitlab.UnitlabError, match="describe takes a study"):
        unitlab.describe(np.zeros(3))  # type: ignore[call-overload]


def test_an_outcome_is_described_beside_accuracy() -> None:
    ds = simulated_study(6, 4, 80, 1)
    drop = np.random.default_rng(0).normal(np.array([0, 0, 0, 0, 2, 0])[:, None], 1, (6, 80)).astype(np.float32)
    ds = ds.assign(outcome_drop=(("unit", "image"), drop)).assign_attrs(outcome="entropy")
    text, damage = unitlab.describe(ds), unitlab.damage(ds)
    assert "The outcome “entropy” of every image was measured before and after each ablation" in text
    n = int((damage.q_overall_outcome <= 0.05).sum())
    assert n >= 1 and rows_of(text)["units that change the outcome over all images (q ≤ 0.05)"] == f"{n} of 6"
    found = unitlab.units_of(ds, 1)
    np.testing.assert_array_equal(found.class_outcome_drop, damage.class_outcome_drop.values[found.unit.values, 1])
