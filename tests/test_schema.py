"""The table of variables: what every interval says of the sampling that it covers."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from simulated_study import simulated_study

import unitlab
from unitlab.schema import (
    COMPARISON_VARIABLES,
    CURVE_VARIABLES,
    GROUP_VARIABLES,
    MEMORISING_VARIABLES,
    TRAINING_VARIABLES,
    VARIABLES,
    Variable,
)
from unitlab.schema.variable import SAMPLINGS

TABLES = (VARIABLES, GROUP_VARIABLES, CURVE_VARIABLES, COMPARISON_VARIABLES, TRAINING_VARIABLES, MEMORISING_VARIABLES)


@pytest.mark.parametrize("table", TABLES)
def test_every_interval_says_which_sampling_it_covers(table: Mapping[str, Variable]) -> None:
    for name, row in table.items():
        limit = name.endswith(("_low", "_high", "_upper", "_bound"))
        assert bool(row.covers) == limit, name
        assert set(row.covers) <= set(SAMPLINGS)
        assert row.attrs.get("covers") == (" and ".join(row.covers) or None)
        if name.endswith(("_low", "_high")):
            partner = name.removesuffix("_low").removesuffix("_high")
            assert table[f"{partner}_low"].covers == table[f"{partner}_high"].covers


def test_arrays_carry_it() -> None:
    found = unitlab.damage(simulated_study(3, 3, 60, 0))
    limits = [name for name in found.data_vars if str(name).endswith(("_low", "_high", "_upper", "_bound"))]
    assert len(limits) == 16
    for name in limits:
        assert found[name].attrs["covers"] == "images"
    assert unitlab.random_bases().difference_low.attrs["covers"] == "images and bases"
