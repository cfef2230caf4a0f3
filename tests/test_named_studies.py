"""A name or path does wherever a study's dataset does, for every public call."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path

import pytest
import xarray as xr

import unitlab
from unitlab import plots
from unitlab.files import bundled_folder
from unitlab.named_studies import STUDIES, takes_names

FUNCTIONS = [getattr(unitlab, name) for name in unitlab.__all__] + [getattr(plots, name) for name in plots.__all__]
# results of other calls; of unitlab.cumulative, texts with a meaning of their own
NO_STUDIES = {"comparison", "partners", "seeds", "cumulative"}


def test_every_call_that_takes_a_study_takes_its_name() -> None:
    seen = 0
    for function in filter(inspect.isfunction, FUNCTIONS):
        for parameter in inspect.signature(function).parameters.values():
            if "xr.Dataset" in str(parameter.annotation) and function.__name__ not in NO_STUDIES:
                assert parameter.annotation in STUDIES or "Path" in str(parameter.annotation), (function, parameter)
                if parameter.annotation in STUDIES:
                    assert function.__wrapped__, function
                    seen += 1
    assert seen > 20


def test_names_paths_and_datasets_give_the_same() -> None:
    ds = unitlab.load("vgg_fashion")
    known = unitlab.confusion(ds, 3)
    path = bundled_folder() / "studies" / "vgg_fashion.zarr"
    for given in ("vgg_fashion", path, str(path)):
        xr.testing.assert_identical(unitlab.confusion(given, 3), known)
    xr.testing.assert_identical(unitlab.confusion(ds="vgg_fashion", unit=3), known)
    assert unitlab.confusion.__name__ == "confusion" and "Where the images go" in str(unitlab.confusion.__doc__)
    with pytest.raises(unitlab.UnitlabError, match=r"no study 'vgg_fashon'.*'vgg_fashion'"):
        unitlab.damage("vgg_fashon")


def test_studies_are_opened_where_they_are_said_to_be_and_nowhere_else() -> None:
    @takes_names
    def several(studies: Mapping[str, xr.Dataset], of: str = "x", *, other: xr.Dataset | None = None) -> object:
        return studies, of, other

    studies, of, other = several({"a": "vgg_fashion", "b": Path("/nowhere")} | {"b": "vgg_fashion"}, "vgg_fashion", other=None)  # type: ignore[misc,dict-item]
    assert all(isinstance(one, xr.Dataset) for one in studies.values()) and (of, other) == ("vgg_fashion", None)

    def text_alone(name: str) -> str:
        return name

    assert takes_names(text_alone) is text_alone  # type: ignore[call-overload]
