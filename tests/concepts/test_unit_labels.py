"""Names of units come from where they are, each to its own unit, and tables that fit no layer are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from simulated_study import simulated_study

import unitlab
from unitlab.concepts import labelled, read_clip_dissect, read_netdissect

NETDISSECT = """unit,category,label,score,object-label,object-truth,object-activation,object-intersect,object-iou
2,object,ski slope,0.21,ski slope,10,12,4,0.21
1,texture,"dotted, blue",0.05,tree,10,12,1,0.04
"""
CLIP_DISSECT = """layer,unit,description,similarity
layer3,0,grass,0.11
layer4,0,null,0.21
layer4,3,snow,0.31
"""


@pytest.fixture(scope="module")
def study() -> xr.Dataset:
    return simulated_study(4, 3, 60, 1)


def file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "names.csv"
    path.write_text(text)
    return path


def test_network_dissection_counts_from_one(study: xr.Dataset, tmp_path: Path) -> None:
    named = labelled(study, read_netdissect(file(tmp_path, NETDISSECT)))
    assert named.unit_label.values.tolist() == ["dotted, blue", "ski slope", "", ""]
    np.testing.assert_array_equal(named.unit_label_score, [0.05, 0.21, np.nan, np.nan])
    assert named.unit_label_source.values.tolist() == ["Network Dissection"] * 2 + ["", ""]
    assert named.unit_label.attrs["comment"] and "unit_label" in named.coords
    # names go along with whatever is computed
    one, other = unitlab.damage(named), unitlab.damage(study)
    assert one.unit_label.equals(named.unit_label)
    xr.testing.assert_equal(one.drop_vars([name for name in one.coords if name not in other.coords]), other)


def test_clip_dissect_counts_from_zero_and_has_layers(study: xr.Dataset, tmp_path: Path) -> None:
    path = file(tmp_path, CLIP_DISSECT)
    # a concept may be called null
    assert labelled(study, read_clip_dissect(path, "layer4")).unit_label.values.tolist() == ["null", "", "", "snow"]
    with pytest.raises(unitlab.UnitlabError, match=r"layers layer3, layer4; give one"):
        read_clip_dissect(path)
    with pytest.raises(unitlab.UnitlabError, match="no layer 'layer5'"):
        read_clip_dissect(path, "layer5")


def test_names_of_concepts_and_of_ones_own(study: xr.Dataset) -> None:
    label = study.label.values
    ds = study.assign(
        activation_max=(("unit", "image"), np.stack([label == 0, label == 1, label * 0, label * 0]).astype(float))
    )
    table = pd.DataFrame({"class": [f"{k}" for k in label]}, index=ds.image.values)
    found = unitlab.align(ds, unitlab.concepts.tags(table))
    named = labelled(ds, found)
    assert named.unit_label.values.tolist() == ["class: 0", "class: 1", "", ""]
    assert named.unit_label_score.values[:2].tolist() == [1.0, 1.0]
    own = pd.DataFrame({"label": ["a", None], "score": [1, 2]}, index=[3, 0])
    named = labelled(ds, own, source="mine")
    assert named.unit_label.values.tolist() == ["", "", "", "a"] and named.unit_label_source.values.tolist() == [
        "",
        "",
        "",
        "mine",
    ]
    assert labelled(ds.isel(unit=[3, 1]), pd.Series({1: "b", 0: "c"})).unit_label.values.tolist() == ["", "b"]
    assert labelled(ds, {}).unit_label.values.tolist() == [""] * 4


def test_tables_that_fit_no_layer_are_refused(study: xr.Dataset, tmp_path: Path) -> None:
    for names, message in (
        ({4: "a"}, "name for unit 4, but the layer's units are 0 to 3"),
        ({-1: "a"}, "name for unit -1"),
        ({"a": "b"}, "counted from 0; it holds 'a'"),
        (pd.DataFrame({"name": ["a"]}), "no column 'label'; it has name"),
        (pd.DataFrame({"label": ["a", "b"]}, index=[1, 1]), "unit 1 has two names"),
        (pd.DataFrame({"label": ["a"], "score": ["high"]}), "'score' holds 'high'"),
        (study, "has no names"),
        (3, "given: int"),
    ):
        with pytest.raises(unitlab.UnitlabError, match=message):
            labelled(study, names)
    for text, read, message in (
        ("", read_netdissect, "cannot be read"),
        (CLIP_DISSECT, read_netdissect, r"is not a \*-result.csv .*lacks the column 'category'"),
        (NETDISSECT, read_clip_dissect, "lacks the column 'description'"),
        (NETDISSECT.replace("\n1,", "\n0,"), read_netdissect, "counts units from 0"),
        (NETDISSECT.replace("\n1,", "\nx,"), read_netdissect, "no whole number"),
    ):
        with pytest.raises(unitlab.UnitlabError, match=message):
            read(file(tmp_path, text))
    with pytest.raises(unitlab.UnitlabError, match="No such file"):
        read_clip_dissect(tmp_path / "none.csv")
