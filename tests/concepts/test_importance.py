"""Importance by rank and by q is what the drops say."""

from __future__ import annotations

import numpy as np
import pytest
from planted_network import CLASSES, planted
from simulated_study import simulated_study

import unitlab


def test_ranks_are_those_of_the_drops() -> None:
    ds = simulated_study(
        20, 6, 300, 3, flip_rate=0.15, specific_unit=4, specific_category=2, dead_units=(7,), empty_categories=(5,)
    )
    found, damage = unitlab.important_to(ds), unitlab.damage(ds)
    drop = damage.balanced_accuracy_drop.values
    for k in range(5):
        fourth = np.sort(drop[:, k])[-4]
        np.testing.assert_array_equal(found.among_largest.values[:, k], (drop[:, k] >= fourth) & (drop[:, k] > 0))
        for u in range(20):
            assert found.drop_rank.values[u, k] == 1 + (drop[:, k] > drop[u, k]).sum()
    assert not found.among_largest.values[:, 5].any() and (found.drop_rank.values[:, 5] == 0).all()
    assert not found.among_largest.values[7].any() and found.n_important.values[7] == 0
    np.testing.assert_array_equal(found.damaged, damage.damaged)
    assert found.drop_rank.values[4, 2] == 1 and bool(found.damaged[4, 2])
    np.testing.assert_array_equal(
        unitlab.important_to(damage, most=1).n_important, (found.drop_rank == 1).where(drop > 0, False).sum("category")
    )
    table = found.to_dataframe().query("among_largest or damaged")
    assert (4, "class 2") in table.index and len(table) == int((found.among_largest | found.damaged).sum())


def test_the_planted_unit_is_important_to_its_class() -> None:
    network, images, unit, unit_class = planted(3)
    source = unitlab.images(images, categories=[f"class {k}" for k in range(CLASSES)])
    found = unitlab.important_to(unitlab.ablate(network, source, "relu", progress=False, device="cpu"), most=1)
    assert found.drop_rank.values[unit, unit_class[unit]] == 1 and bool(found.damaged[unit, unit_class[unit]])


def test_bad_numbers_are_refused() -> None:
    ds = simulated_study(3, 3, 30, 0)
    for most in (0, -1, 2.5, True, "4"):
        with pytest.raises(unitlab.UnitlabError, match="most is"):
            unitlab.important_to(ds, most=most)
    with pytest.raises(unitlab.UnitlabError, match="important_to takes a study"):
        unitlab.important_to({})
