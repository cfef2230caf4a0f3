"""Whatever takes long says so, and is silent where it is asked to be."""

from __future__ import annotations

import inspect

import pytest
from simulated_study import simulated_study

import unitlab
from unitlab import progress

TAKE_LONG = (
    "ablate", "ablate_groups", "agreement", "compare", "correlations", "cumulative", "damage", "describe", "estimate",
    "regression", "reliability", "report", "selective_damage", "units_of", "verify",
)  # fmt: skip


@pytest.mark.parametrize("name", TAKE_LONG)
def test_its_bar_can_be_turned_off(name: str) -> None:
    assert inspect.signature(getattr(unitlab, name)).parameters["progress"].default is True


def test_a_bar_appears_only_where_it_takes_long(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    ds = simulated_study(5, 4, 60)
    monkeypatch.setattr(progress, "DELAY", 1000)
    unitlab.correlations(ds, "class_selectivity")
    assert not capsys.readouterr().err
    monkeypatch.setattr(progress, "DELAY", 0)
    unitlab.damage(ds, progress=False)
    unitlab.regression(ds, "p_specific", ["l1_norm"], progress=False)
    assert not capsys.readouterr().err
    unitlab.damage(ds)
    assert "damage: " in capsys.readouterr().err
    unitlab.correlations(ds, "class_selectivity")
    assert "without some of the images" in capsys.readouterr().err
