"""False discoveries over the cells of several layers: as if all units were of one layer."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from simulated_study import simulated_study

import unitlab

OF_CELLS = ("q_value", "margin_q_value", "damaged", "accuracy_drop", "p_value", "margin_p_value")


@pytest.mark.parametrize("clusters", [None, 50])
def test_cells_of_all_layers_are_adjusted_together(clusters: int | None) -> None:
    # the same images and baseline, so that the units of both can stand in one study
    whole = simulated_study(9, 4, 200, seed=1, specific_unit=2, clusters=clusters)
    layers = {"first": whole.isel(unit=slice(0, 4)), "second": whole.isel(unit=slice(4, 9))}
    found, together = unitlab.damage_across_layers(layers, progress=False), unitlab.damage(whole, progress=False)
    for name in OF_CELLS:
        np.testing.assert_allclose(np.concatenate([found[one][name] for one in layers]), together[name], err_msg=name)
    np.testing.assert_array_equal(np.concatenate([found[one].n_damaged for one in layers]), together.n_damaged)
    assert found["first"].attrs["q_over"] == "first, second"
    # what is specific to a class is measured beside the units of its layer; the adjustment is over both
    p = np.concatenate([unitlab.damage(ds, progress=False).margin_specific_p_value.values for ds in layers.values()]).ravel()
    q = np.concatenate([found[one].margin_specific_q_value.values for one in layers]).ravel()
    order = np.argsort(p, kind="stable")
    expected = np.minimum.accumulate((p[order] * p.size / np.arange(1, p.size + 1))[::-1])[::-1]
    np.testing.assert_allclose(q[order], np.minimum(expected, 1))


def test_one_layer_alone_is_as_damage_tells() -> None:
    ds = simulated_study(6, 3, 90, seed=3, specific_unit=0)
    found = unitlab.damage_across_layers({"only": ds}, progress=False)["only"]
    xr.testing.assert_identical(found.drop_attrs(deep=False), unitlab.damage(ds, progress=False).drop_attrs(deep=False))


def test_a_layer_without_damage_makes_findings_of_another_less_sure() -> None:
    damaged, quiet = simulated_study(6, 4, 200, seed=1, specific_unit=2), simulated_study(40, 4, 200, seed=9)
    alone = unitlab.damage(damaged, progress=False)
    beside = unitlab.damage_across_layers({"damaged": damaged, "quiet": quiet}, progress=False)["damaged"]
    # few flips of a quiet unit can attain no small p, and so take nothing from the cells of others; margins always do
    assert (beside.q_value >= alone.q_value).all()
    assert float(beside.margin_q_value.min()) > 2 * float(alone.margin_q_value.min())


def test_no_studies_are_refused() -> None:
    for given in ({}, [simulated_study(4, 3, 60)]):
        with pytest.raises(unitlab.UnitlabError, match="layer → study"):
            unitlab.damage_across_layers(given)
