"""Variance components of drops, and shrunken drops: against statsmodels, dense linear algebra and drawn truth."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from simulated_study import simulated_study, study_of_predictions
from statsmodels.regression.mixed_linear_model import MixedLM

import unitlab
from unitlab.analysis.variance_components import CellMeans, components, predicted


def table(random: np.random.Generator, n_units: int, n_classes: int, *deviations: float) -> np.ndarray:
    """Drops with parts of units, classes and cells of these standard deviations."""
    of_unit, of_class, of_cell = deviations
    return (
        0.3
        + of_unit * random.normal(size=(n_units, 1))
        + of_class * random.normal(size=n_classes)
        + of_cell * random.normal(size=(n_units, n_classes))
    )


def test_components_are_those_of_restricted_maximum_likelihood() -> None:
    drop = table(np.random.default_rng(3), 12, 9, 1.0, 0.7, 0.5)
    found = components(CellMeans(drop, np.zeros_like(drop), np.zeros(9)))
    unit, category = (place.ravel() for place in np.indices(drop.shape))
    frame = pd.DataFrame({"drop": drop.ravel(), "unit": unit, "category": category, "one": 1})
    model = MixedLM.from_formula(
        "drop ~ 1", frame, groups="one", vc_formula={"category": "0 + C(category)", "unit": "0 + C(unit)"}
    )
    fitted = model.fit(reml=True)
    of = dict(zip(model.exog_vc.names, fitted.vcomp, strict=True))
    np.testing.assert_allclose(found, [of["unit"], of["category"], fitted.scale, 0], rtol=1e-3)


def test_prediction_solves_the_mixed_models_equations() -> None:
    random = np.random.default_rng(1)
    n_units, n_classes = 5, 4
    drop, variances = table(random, n_units, n_classes, 1.0, 1.0, 1.0), np.array([0.9, 0.6, 0.4, 0.0])
    shared, alone = random.random(n_classes), random.random(n_classes)
    means = CellMeans(drop, np.tile(shared + alone, (n_units, 1)), shared + alone / n_units)
    # the covariance of all cells, and of what is to be predicted with them
    unit, category = (place.ravel() for place in np.indices(drop.shape))
    same_unit, same_class = unit[:, None] == unit, category[:, None] == category
    wanted = 0.9 * same_unit + 0.6 * same_class + 0.4 * np.eye(drop.size)
    covariance = wanted + same_class * shared[category] + np.diag(alone[category])
    inverse, y = np.linalg.inv(covariance), drop.ravel()
    mean = inverse.sum(0) @ y / inverse.sum()
    expected = mean + wanted @ inverse @ (y - mean)
    np.testing.assert_allclose(predicted(means, variances).ravel(), expected)


def test_what_images_add_is_taken_off() -> None:
    random, found, noise = np.random.default_rng(0), [], []
    truth = np.array([0.4, 0.3, 0.5]) ** 2
    error_raw, error_shrunken = 0.0, 0.0
    for _ in range(300):
        drop = table(random, 8, 6, 0.4, 0.3, 0.5)
        # of nine images a class, all units share half of the noise
        shared, alone = random.normal(size=(6, 9)), random.normal(size=(8, 6, 9))
        values = drop[:, :, None] + 1.2 * (shared + alone)
        means = CellMeans(values.mean(2), values.var(2, ddof=1) / 9, values.mean(0).var(1, ddof=1) / 9)
        variances = components(means)
        found.append(variances[:3])
        noise.append(variances[3])
        error_raw += ((means.drop - drop) ** 2).mean()
        error_shrunken += ((predicted(means, variances) - drop) ** 2).mean()
    error = np.std(found, axis=0) / np.sqrt(len(found))
    assert (np.abs(np.mean(found, axis=0) - truth) < 3.5 * error).all() and (4 * error < truth).all()
    assert np.mean(noise) == pytest.approx(2 * 1.2**2 / 9, rel=0.03)
    assert error_shrunken < 0.85 * error_raw


def study(seed: int, effect: float) -> xr.Dataset:
    """Units that break images of single classes, each its own, and flip others at random."""
    random = np.random.default_rng(seed)
    label = np.repeat(np.arange(6), 40)
    baseline = np.where(random.random(240) < 0.7, label, (label + 1) % 6)
    after = np.where(random.random((10, 240)) < 0.1, random.integers(0, 6, (10, 240)), baseline)
    for unit in range(10):
        hit = (label == unit % 6) & (random.random(240) < effect)
        after[unit, hit] = (label[hit] + 1) % 6
    return study_of_predictions(label, baseline, after, 6)


def test_shares_of_a_study() -> None:
    found = unitlab.variance_components(study(0, 0.6))
    assert found.component.values.tolist() == ["unit", "class", "unit × class", "images"]
    assert float(found.variance_share.sum()) == pytest.approx(1)
    assert (found.variance_share_low < found.variance_share).all() and (found.variance_share < found.variance_share_high).all()
    cell = found.sel(component="unit × class")
    assert float(cell.variance_share_low) > 0.5
    assert found.variance_share_low.attrs["covers"] == "images"
    chance = unitlab.variance_components(study(1, 0.0)).sel(component="unit × class")
    assert float(chance.variance_share_low) < 0 < float(chance.variance_share_high)


def test_shares_do_not_depend_on_the_order_of_the_images_and_go_by_cluster() -> None:
    ds = simulated_study(8, 4, 120, seed=2, clusters=40)
    found = unitlab.variance_components(ds)
    shuffled = unitlab.variance_components(ds.isel(image=np.random.default_rng(0).permutation(120)))
    np.testing.assert_allclose(shuffled.shrunken_drop, found.shrunken_drop, atol=1e-12)
    alone = unitlab.variance_components(ds.drop_vars("cluster"))
    # three copies of an image say no more than one
    assert float(alone.variance[3]) < 0.7 * float(found.variance[3])


def test_what_has_no_components_is_refused() -> None:
    ds = study(0, 0.5)
    with pytest.raises(unitlab.UnitlabError, match="Did you mean 'margin_drop'"):
        unitlab.variance_components(ds, "margin_drp")
    with pytest.raises(unitlab.UnitlabError, match="two units and two classes"):
        unitlab.variance_components(ds.isel(unit=[0]))
    with pytest.raises(unitlab.UnitlabError, match="two units and two classes"):
        unitlab.variance_components(simulated_study(6, 3, 9))
    nothing = ds.assign(prediction=ds.baseline_prediction.broadcast_like(ds.prediction).transpose(*ds.prediction.dims))
    found = unitlab.variance_components(nothing)
    assert np.isnan(found.variance_share).all() and (found.shrunken_drop == 0).all()
