"""Group and class of the explorer, where the network runs beside the page."""

from __future__ import annotations

from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
import xarray as xr
from jupyter_server_process import JupyterServer
from notebook_page import NotebookPage, Shown
from playwright.sync_api import Page, expect

import unitlab
from unitlab.compute.networks.bundled import bundled_network

CELL = """import unitlab
from unitlab.compute.files.recipe_files import RecipeFiles
RecipeFiles.images = lambda self: unitlab.images("fashion_mnist").subset(range(200))
unitlab.explore({store!r})"""


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> xr.Dataset:
    """The first 200 images of a recipe, the only ones that it has in the kernel as well."""
    photos = unitlab.images("fashion_mnist").subset(range(200))
    store = tmp_path_factory.mktemp("few") / "few.zarr"
    attrs = {"name": "few", "recipe": "vgg_fashion"}
    unitlab.ablate(bundled_network("vgg_fashion"), photos, "conv3_2", progress=False, attrs=attrs, store=store)
    return unitlab.load(store)


@pytest.fixture(scope="module")
def explorer(jupyter: JupyterServer, kept_page: Page, study: xr.Dataset) -> Shown:
    cell = nbformat.v4.new_code_cell(CELL.format(store=study.encoding["source"]))
    metadata = {"kernelspec": {"name": "python3", "display_name": ""}}
    nbformat.write(nbformat.v4.new_notebook(cells=[cell], metadata=metadata), Path(jupyter.folder) / "few.ipynb")
    NotebookPage(kept_page, jupyter.url, "few.ipynb").run_all()
    return Shown(kept_page)


def points(value: float) -> str:
    return f"{100 * value:.1f}".replace("-0.0", "0.0").replace("-", "−")


def right_without(study: xr.Dataset, units: list[int]) -> np.ndarray:
    """Which images are right with these units at zero, by a hook of its own."""
    model = bundled_network("vgg_fashion")

    def silence(_module: object, _given: object, out: torch.Tensor) -> torch.Tensor:
        out = out.clone()
        out[:, units] = 0
        return out

    ((batch, _),) = unitlab.images("fashion_mnist").subset(range(200)).batches(0, 200, 200)
    hook = model.get_submodule(study.attrs["site"]).register_forward_hook(silence)
    with torch.no_grad():
        predicted = model(batch).argmax(1).numpy()
    hook.remove()
    return predicted == study.label.values


def test_a_lasso_fills_the_group_that_is_silenced_together(explorer: Shown, study: xr.Dataset) -> None:
    panel = explorer.tab("Group")
    group = explorer.lasso()
    assert 1 < len(group) < 64
    expect(panel.locator(".ul-group-units")).to_have_value(", ".join(map(str, group)))
    sentence = panel.locator(".ul-sentence")
    one_by_one = study.overall_drop.sel(unit=group).sum().item()
    expect(sentence).to_contain_text(f"the {len(group)} units cost {points(one_by_one)} points")

    panel.get_by_role("button", name="Silence them together").click()
    before = study.baseline_prediction.values == study.label.values
    after = right_without(study, group)
    lost, won = int((before & ~after).sum()), int((after & ~before).sum())
    assert lost > 0
    images = "image" if lost == 1 else "images"
    together = f"silenced together {points((lost - won) / 200)} ({lost} {images} lost, {won} won)"
    expect(sentence).to_contain_text(together, timeout=30_000)


def test_a_class_has_its_units_and_its_curve(explorer: Shown, study: xr.Dataset) -> None:
    panel = explorer.tab("Class")
    name = str(study.category.values[4])
    search = explorer.root.locator("#class")
    search.fill(name)
    search.press("Enter")
    here = study.label.values == 4
    right = (study.baseline_prediction.values[here] == 4).sum()
    expect(panel.locator(".ul-sentence")).to_contain_text(f"{right} of the {here.sum()} images of {name}")
    most = np.argsort(-study.accuracy_drop.values[:, 4], kind="stable")[:10]
    first = panel.locator(".ul-unit-bars th").evaluate_all("all => all.slice(0, 10).map(one => one.textContent)")
    assert first == [f"unit {study.unit.values[at]}" for at in most]

    panel.get_by_role("button", name="Compute the curve").click()
    circles = panel.locator(".ul-curve circle")
    expect(circles.first).to_be_visible(timeout=30_000)
    assert circles.evaluate_all("all => all.map(one => Number(one.dataset.k))") == [0, 1, 2, 3, 4, 6, 8, 12, 16, 20]
    everything = 100 * (study.baseline_prediction.values == study.label.values).mean()
    expect(circles.first).to_contain_text(f"this class {100 * right / here.sum():.1f} %")
    expect(circles.first).to_contain_text(f"all classes {everything:.1f} %")
