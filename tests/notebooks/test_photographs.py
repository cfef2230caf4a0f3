"""What the notebook of photographs says is what the numbers of the bundled study say."""

from __future__ import annotations

from pathlib import Path

import nbformat
import numpy as np
import pandas as pd

import unitlab
from unitlab.analysis import ALPHA
from unitlab.analysis.paired_tests import benjamini_hochberg


def test_photographs() -> None:
    path = Path(__file__).parents[2] / "notebooks" / "photographs.ipynb"
    cells = nbformat.read(path, as_version=4).cells
    said = " ".join(" ".join(cell.source for cell in cells if cell.cell_type == "markdown").split())
    ds = unitlab.load("squeezenet_stamps")
    assert "thumbnails" not in ds, "the pictures are under the GPL"
    objects = pd.Series(ds.cluster.values).groupby(ds.label.values).nunique()
    assert "on 1,200 photographs: 150 objects of 110 classes" in said and "all 512 units of `features.12`" in said
    assert (ds.sizes["image"], objects.sum(), len(objects), ds.sizes["unit"]) == (1200, 150, 110, 512)
    assert "of which the network recognises half" in said and abs(ds.attrs["baseline_overall_accuracy"] - 0.5) < 0.03
    assert "85 of the 110 classes have a single object" in said and (objects == 1).sum() == 85

    of_objects, of_pictures = (unitlab.damage(one, progress=False) for one in (ds, ds.drop_vars("cluster")))
    assert "no unit costs more than 3.7 points" in said and 3.6 < 100 * of_objects.overall_drop_bound.item() <= 3.7
    assert "the mean unit costs 0.15" in said and round(100 * of_objects.overall_drop.mean().item(), 2) == 0.15
    hurt = (benjamini_hochberg(of_objects.p_overall.values) <= ALPHA) & (of_objects.overall_drop.values > 0)
    assert "None is shown to cost anything overall" in said and not hurt.any()

    def found(p: np.ndarray) -> int:
        return int((benjamini_hochberg(np.nan_to_num(p, nan=1)) <= ALPHA).sum())

    assert "97 of 512 units, a fifth, lose images of some objects" in said and found(of_pictures.p_specific.values) == 97
    assert "the margins of all units single some out" in said and found(of_pictures.p_margin_specific.values) == 512
    assert "By lost images one unit singles out classes, by margins 25 do" in said
    assert (found(of_objects.p_specific.values), found(of_objects.p_margin_specific.values)) == (1, 25)
    assert "no class can be named for a unit" in said and not of_objects.damaged.any()
    orange = of_objects.sel(unit=16, category="orange")
    assert "unit 16 takes 56 points from oranges (four objects, so few that its interval includes zero)" in said
    assert "for less than two points over all images" in said and orange.drop_low < 0
    assert int(100 * orange.accuracy_drop) == 56 and objects[950] == 4 and 0 < orange.overall_drop < 0.02
    assert of_objects.max_class_drop_crossfit.argmax("unit") == 16
