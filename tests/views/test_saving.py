"""Figures as files hold what the figure holds, and need a browser alone."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from xml.etree import ElementTree

import holoviews as hv
import numpy as np
import pytest
import xarray as xr
from PIL import Image
from simulated_study import simulated_study

import unitlab
from unitlab import UnitlabError, plots
from unitlab.views import saving


@pytest.fixture(scope="module")
def study() -> xr.Dataset:
    names = np.array(["<b>&x", "cat", "猫", "d"], object)
    return simulated_study(5, 4, 120, 3, specific_unit=1).assign_coords(category=names)


def texts(path: Path) -> str:
    return " ".join("".join(one.itertext()) for one in ElementTree.fromstring(path.read_text("utf-8")).iter() if one.text)


def test_a_figure_as_svg_png_and_pdf(study: xr.Dataset, tmp_path: Path) -> None:
    figure = plots.classes(study, 1)
    plot = hv.render(figure, backend="bokeh")
    svg = plots.save(figure, tmp_path / "a.svg")
    assert "accuracy drop (points; filled: q ≤ 0.05)" in texts(svg) and "<b>&x (30)" in texts(svg) and "猫 (30)" in texts(svg)
    root = ElementTree.fromstring(svg.read_text("utf-8"))
    assert (root.get("width"), root.get("height")) == (str(plot.width), str(plot.height))
    with Image.open(plots.save(figure, tmp_path / "a.png", scale=3)) as drawn:
        assert drawn.size == (3 * plot.width, 3 * plot.height)
        pixels = np.asarray(drawn.convert("RGB")).astype(int)
    assert (np.abs(pixels - (213, 94, 0)).max(-1) < 40).mean() > 0.005, "bars in their colour"
    assert (pixels[0] == 255).all()
    pdf = plots.save(figure, tmp_path / "a.PDF").read_bytes()
    assert pdf.startswith(b"%PDF") and len(re.findall(rb"/Type\s*/Page\b", pdf)) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.PDF", "a.png", "a.svg"], "nothing else is left"


def test_top_images_and_layouts(study: xr.Dataset, tmp_path: Path) -> None:
    images = plots.images(study, 1, count=5, columns=3)
    svg = plots.save(images, tmp_path / "a.svg").read_text("utf-8")
    assert svg.count("<image ") == 5 and "&lt;b&gt;" in svg and "<b>" not in svg
    with Image.open(plots.save(images, tmp_path / "a.png", scale=1)) as drawn:
        assert drawn.width == 3 * 104
    layout = plots.units(study) + plots.classes(study, 1)
    both = texts(plots.save(layout, tmp_path / "b.svg"))
    assert "overall drop (points)" in both and "class (images)" in both


def test_what_cannot_be_saved_is_said(study: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figure = plots.units(study)
    for given, path, message in (
        (figure, "a.jpg", r"ends in \.svg, \.png, \.pdf"),
        (study, "a.svg", "takes a figure.*given: Dataset"),
        (figure, "nowhere/a.svg", "nowhere"),
    ):
        with pytest.raises(UnitlabError, match=message):
            plots.save(given, tmp_path / path)
    with pytest.raises(UnitlabError, match="scale is 0"):
        plots.save(figure, tmp_path / "a.png", scale=0)
    monkeypatch.setenv("CHROMIUM", str(tmp_path / "no-browser"))
    with pytest.raises(UnitlabError, match="no-browser, which is no program: install one"):
        plots.save(figure, tmp_path / "a.svg")
    monkeypatch.setenv("CHROMIUM", shutil.which("false") or "false")
    with pytest.raises(UnitlabError, match="has not drawn the figure"):
        plots.save(figure, tmp_path / "a.svg")
    monkeypatch.setenv("CHROMIUM", shutil.which("true") or "true")
    with pytest.raises(UnitlabError, match="has not drawn the figure"):
        plots.save(figure, tmp_path / "a.pdf")
    monkeypatch.delenv("CHROMIUM")
    monkeypatch.setattr(saving, "BROWSERS", ())
    with pytest.raises(UnitlabError, match="none of them is found: install one"):
        unitlab.plots.save(figure, tmp_path / "a.svg")
    assert not list(tmp_path.iterdir())
