from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from simulated_study import simulated_groups

import unitlab
from unitlab import UnitlabError, catalog
from unitlab.recipes.shipped import BUNDLED
from unitlab.store.writing import write_study


def test_bundled_studies_load_by_name() -> None:
    table = unitlab.studies()
    for recipe in BUNDLED:
        name = recipe.name
        assert table.loc[name, "where"] == "bundled"
        ds = unitlab.load(name)
        assert ds.attrs["layer"] == recipe.layers[-1] and ds.attrs["verified_different"] == 0
        assert ds.attrs["top1_accuracy"] == pytest.approx(ds.attrs["baseline_overall_accuracy"], abs=2e-3)
        assert (ds.label == ds.baseline_prediction).values.mean() == pytest.approx(ds.attrs["baseline_overall_accuracy"])
    assert list(unitlab.load("alexnet_fashion").attrs["layers"]) == ["conv1", "conv2", "conv3", "conv5"]


def test_thumbnails_come_from_the_bundled_images() -> None:
    from unitlab.bundled_images import bundled_images

    ds, pixels = unitlab.load("vgg_emoji"), bundled_images("emoji").pixels
    np.testing.assert_array_equal(ds.thumbnails.isel(image=7), pixels[7])
    np.testing.assert_array_equal(ds.thumbnails.isel(image=[5, 3], rgb=0), pixels[[5, 3], :, :, 0])
    np.testing.assert_array_equal(ds.thumbnails[10:14, ::2, 5], pixels[10:14, ::2, 5])


def test_what_is_computed_comes_before_what_is_bundled(own_home: Path) -> None:
    write_study(own_home / "studies" / "vgg_emoji.zarr", simulated_groups(layer="conv5_3"))
    assert unitlab.studies().loc["vgg_emoji", "where"] == "computed"
    assert unitlab.load("vgg_emoji", "conv5_3").sizes["image"] == 60
    # another layer than the recipe's default does not take its place
    assert unitlab.load("vgg_emoji").sizes["image"] == 4428
    write_study(own_home / "studies" / "vgg_emoji.zarr", simulated_groups(layer="conv5_2"))
    assert unitlab.load("vgg_emoji").sizes["image"] == 60


def test_unknown_names() -> None:
    with pytest.raises(UnitlabError, match="Did you mean 'vgg_emoji'"):
        unitlab.load("vgg_emojis")
    with pytest.raises(UnitlabError, match="no layer 'conv9'"):
        unitlab.load("vgg_fashion", "conv9")
    with pytest.raises(UnitlabError, match="no ablation 'mean'"):
        unitlab.load("vgg_fashion", ablation="mean")
    with pytest.raises(UnitlabError, match="no recipe"):
        catalog.recipe("vgg17")
    with pytest.raises(UnitlabError, match="layer is 3"):
        unitlab.load("vgg_fashion", 3)  # type: ignore[call-overload]


def test_several_layers_are_a_dict_as_ablate_gives_it() -> None:
    found = unitlab.load("alexnet_fashion", layer=["conv5", "conv1"])
    assert list(found) == ["conv5", "conv1"]
    for layer, ds in found.items():
        assert ds.attrs["layer"] == layer and ds.identical(unitlab.load("alexnet_fashion", layer))
    with pytest.raises(UnitlabError, match="no layer 'conv9'"):
        unitlab.load("alexnet_fashion", layer=["conv1", "conv9"])


def test_what_computes_an_ablation_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(UnitlabError, match="'unitlab compute vgg_fashion --ablation mean' computes it"):
        unitlab.load("vgg_fashion", ablation="mean")
    with pytest.raises(UnitlabError, match="'unitlab compute alexnet_fashion --layer conv1 --ablation resample' computes it"):
        unitlab.load("alexnet_fashion", "conv1", "resample")
    path = tmp_path / "mine.zarr"
    write_study(path, simulated_groups(layer="conv5_3"))
    for given, call in (
        ({"ablation": "mean"}, "unitlab.ablate(model, images, 'conv5_3', ablation='mean', store="),
        ({"layer": "conv5_3", "ablation": "mean"}, "unitlab.ablate(model, images, 'conv5_3', ablation='mean', store="),
        ({"layer": "conv4_3"}, "unitlab.ablate(model, images, 'conv4_3', store="),
    ):
        with pytest.raises(UnitlabError, match=re.escape(call)):
            unitlab.load(path, **given)
    with pytest.raises(UnitlabError) as missing:
        unitlab.load(path, ablation="lobotomy")
    assert "Valid: 'zero'" in str(missing.value) and "unitlab.ablate" not in str(missing.value)


def test_a_recipe_without_a_store_says_how_to_compute_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "bundled_folder", lambda: tmp_path)
    with pytest.raises(UnitlabError, match="unitlab compute vgg_emoji"):
        unitlab.load("vgg_emoji")
    assert unitlab.studies().loc["vgg_emoji", "where"] == "recipe"


def test_importing_is_light() -> None:
    code = (
        "import sys, unitlab\n"
        "heavy = {'torch', 'holoviews', 'bokeh', 'pandas', 'xarray'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])


def test_loading_needs_no_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None; sys.modules['torchvision'] = None\n"
        "import unitlab; ds = unitlab.load('vgg_fashion'); assert float(ds.accuracy_drop.max()) > 0\n"
        "try: unitlab.ablate\n"
        "except unitlab.UnitlabError as error: assert 'compute' in str(error)\n"
        "else: raise SystemExit('no error')"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])


def test_plain_xarray_opens_a_study_without_a_warning() -> None:
    path = catalog.path_of("vgg_fashion")
    code = (
        "import sys, xarray; assert 'unitlab' not in sys.modules\n"
        f"ds = xarray.open_zarr({str(path)!r}, group='conv3_2/zero', chunks=None)\n"
        "print(float(ds.accuracy_drop.max()), ds.category.values[0], ds.accuracy_drop.attrs['units'])"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[0]) == float(unitlab.load("vgg_fashion").accuracy_drop.max())


def test_networks_come_by_name() -> None:
    network, again = (unitlab.network(name) for name in ("vgg_emoji", "vgg_emoji+units"))
    assert not network.training
    for one, other in zip(network.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    with pytest.raises(UnitlabError, match=r"no recipe 'vgg_emojis' to compute\. Did you mean 'vgg_emoji'"):
        unitlab.network("vgg_emojis")
    with pytest.raises(UnitlabError, match="comes with its weights"):
        unitlab.network("vgg_emoji", weights=__file__)


def test_a_dataset_in_memory_has_the_bundled_pictures_too() -> None:
    bare = unitlab.load("vgg_fashion").drop_vars("thumbnails")
    assert catalog.with_thumbnails(bare).thumbnails.identical(unitlab.load("vgg_fashion").thumbnails)
    assert "thumbnails" not in bare
