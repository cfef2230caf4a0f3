"""Exemplars are the study's top images, masked where the unit exceeds its threshold, in the layout that describers read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import unitlab


@pytest.fixture(scope="module")
def study() -> xr.Dataset:
    return unitlab.load("vgg_emoji").isel(unit=[2, 7, 40])


def test_they_are_the_studys(study: xr.Dataset, tmp_path: Path) -> None:
    named = unitlab.concepts.labelled(study, {7: "round"})
    path = unitlab.concepts.write_exemplars(named, tmp_path / "out", count=5)
    assert path == tmp_path / "out" / "conv5_2"
    images, masks = np.load(path / "images.npy"), np.load(path / "masks.npy")
    # as TopImagesDataset of MILAN asks for: five dimensions, the same units, exemplars, rows and columns
    assert images.shape == (3, 5, 3, 64, 64) and images.dtype == np.uint8
    assert masks.shape == (3, 5, 1, 64, 64) and set(np.unique(masks)) == {0, 1}
    assert np.load(path / "units.npy").tolist() == [2, 7, 40]
    activations = np.loadtxt(path / "activations.csv", delimiter=",")
    np.testing.assert_allclose(activations, study.top_activation[:, :5], rtol=1e-6)
    thresholds = np.loadtxt(path / "thresholds.csv", delimiter=",")
    for row in range(3):
        own = np.sort(study.top_map.values[row].astype(np.float32).ravel())
        assert thresholds[row] == pytest.approx(np.quantile(own, 0.8), rel=1e-3)
        image = int(study.top_image[row, 1])
        np.testing.assert_array_equal(images[row, 1].transpose(1, 2, 0), study.thumbnails[image])
        # the middle of each of the map's sixteen squares
        peak = np.unravel_index(study.top_map.values[row, 0].argmax(), (4, 4))
        assert masks[row, 0, 0, 16 * peak[0] + 8, 16 * peak[1] + 8] == 1
    said = json.loads((path / "exemplars.json").read_text(encoding="utf-8"))
    assert said["name"] == "vgg_emoji" and [one["label"] for one in said["units"]] == ["", "round", ""]
    first = said["units"][2]["exemplars"][0]
    assert first["image"] == study.image.values[int(study.top_image[2, 0])]
    assert first["activation"] == pytest.approx(activations[2, 0])


def test_the_threshold_of_a_dissection_is_taken(study: xr.Dataset, tmp_path: Path) -> None:
    top = study.max_activation.values
    mine = study.assign(activation_threshold=("unit", top * 2))
    path = unitlab.concepts.write_exemplars(mine, tmp_path, count=2)
    assert not np.load(path / "masks.npy").any()
    np.testing.assert_allclose(np.loadtxt(path / "thresholds.csv"), top * 2, rtol=1e-6)


def test_refusals(study: xr.Dataset, tmp_path: Path) -> None:
    write = unitlab.concepts.write_exemplars
    (tmp_path / "conv5_2").mkdir()
    for match, given, options in (
        ("is there already", study, {}),
        ("count is 0", study, {"count": 0}),
        ("quantile is 1", study, {"quantile": 1}),
        ("keeps no thumbnails", study.drop_vars("thumbnails"), {}),
        ("write_exemplars needs 'top_map'", study.drop_vars("top_map"), {}),
    ):
        with pytest.raises(unitlab.UnitlabError, match=match):
            write(given, tmp_path, **options)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "home") == ["conv5_2"]
