"""The report holds the numbers of the study, nothing executes that came from names, and its limits are errors."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from simulated_study import simulated_study

import unitlab
from unitlab.analysis.correlations import measures
from unitlab.analysis.paired_tests import benjamini_hochberg
from unitlab.schema import VARIABLES
from unitlab.views.explorer.measured_study import MeasuredStudy
from unitlab.views.findings import points, probability, study_finding, unit_finding
from unitlab.views.report import page, report


@pytest.fixture(scope="module")
def study() -> xr.Dataset:
    return simulated_study(20, 6, 300, 3, flip_rate=0.15, specific_unit=4, specific_category=2, dead_units=(7,))


@pytest.fixture(scope="module")
def known(study: xr.Dataset) -> xr.Dataset:
    return measures(study)


def payload(text: str) -> dict[str, Any]:
    found = re.search(r'id="data">([^<]+)<', text)
    assert found is not None
    return json.loads(gzip.decompress(base64.b64decode(found[1])))


def opened(row: dict[str, Any]) -> dict[str, Any]:
    """A row's arrays, those in hundredths as numbers."""
    kinds = {"h": "<i2", "f": "<f4", "i": "<i4", "u": "u1"}
    found = dict(row["answer"])
    for (name, kind), buffer in zip(found["arrays"], row["buffers"], strict=True):
        values = np.frombuffer(base64.b64decode(buffer), kinds[kind])
        found[name] = np.where(values == -32768, np.nan, values / 100) if kind == "h" else values
    return found


def test_the_page_holds_the_numbers_of_the_study(study: xr.Dataset, known: xr.Dataset) -> None:
    data = payload(page(study, known, units=[9, 4, 7]))
    assert data["held"]["units"] == [9, 4, 7] and data["first"] == 1
    assert payload(page(study, known))["first"] == MeasuredStudy(study).strongest_unit() == 4
    rows, units = known.sel(unit=[9, 4, 7]), [opened(row) for row in data["units"]]
    names = {"drop": "accuracy_drop", "low": "drop_low", "high": "drop_high"}
    names |= {"precision": "precision_drop", "balanced": "balanced_accuracy_drop"}
    names |= {"margin": "margin_drop", "own": "margin_specific"}
    for name, variable in names.items():
        scale = 1 if variable.startswith("margin") else 100
        np.testing.assert_allclose([row[name] for row in units], scale * rows[variable], atol=6e-3)
    np.testing.assert_allclose([row["own_q"] for row in units], rows.margin_specific_q_value, rtol=1e-6)
    np.testing.assert_allclose([row["q"] for row in units], rows.q_value, rtol=1e-6)
    values = np.frombuffer(base64.b64decode(data["measured"]["values"]), "<f4").reshape(-1, 3)
    shown = {name: row for (name, _), row in zip(data["measured"]["measures"], values, strict=True)}
    np.testing.assert_allclose(shown["overall_drop"], 100 * rows.overall_drop, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(shown["l1_norm"], rows.l1_norm, rtol=1e-6)
    assert np.isnan(shown["class_selectivity"][2])
    assert data["held"]["n"] == known.n_images.values.tolist()
    assert units[1]["finding"][1] == "class 2" and "never active" in units[2]["finding"][0]
    top, found = study.top_image.sel(unit=4).values, opened(data["tops"][1])
    assert [tile["id"] for tile in found["tiles"]] == list(study.image.values[top])
    assert opened(data["tops"][2])["tiles"] == []
    maps, kept = found["maps"].reshape(len(top), *found["mapped"]), study.top_map.sel(unit=4).values.astype(float)
    np.testing.assert_allclose(maps, 255 * kept / kept.max((1, 2), keepdims=True), atol=0.6)


def test_names_from_files_are_text(study: xr.Dataset) -> None:
    bad = '</script><script>alert("class")</script><img src=x onerror=alert(2)>'
    names = np.array([bad, "a & b", "猫", "ß" * 300, "'\"", "$title ${x}"], object)
    ids = np.array([f"<script>alert({i})</script>" for i in range(300)], object)
    renamed = study.assign_coords(category=names, image=ids).assign_attrs(name=bad, training=bad)
    text = page(renamed, measures(renamed))
    assert "<script>alert" not in text and "<img" not in text
    assert len(re.findall("<script", text)) == 2
    assert payload(text)["held"]["classes"] == list(names)


def test_only_the_scripts_and_styles_of_the_page_may_run(study: xr.Dataset, known: xr.Dataset) -> None:
    text = page(study, known)
    for kind, tag in (("script", "<script>"), ("style", "<style>")):
        inside = text.split(tag)[1].split(f"</{kind}>")[0]
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in text
    assert "default-src 'none'" in text
    # the only address is the name space of SVG
    assert set(re.findall(r"https?://[^\"' ]+", text)) == {"http://www.w3.org/2000/svg"}


def test_every_unit_has_an_anchor_and_every_number_a_definition(study: xr.Dataset, known: xr.Dataset) -> None:
    text = page(study, known)
    assert [int(n) for n in re.findall(r'<tr id="unit-(\d+)"', text)] == list(range(20))
    for name, _ in payload(text)["measured"]["measures"]:
        assert f"<code>{name}(unit)</code>" in text
    assert "fingerprint" in text and study.attrs["fingerprint_weights"] in text
    assert study_finding(known) in text


def test_a_selection_is_needed_beyond_512_units(tmp_path: Path) -> None:
    ds = simulated_study(513, 2, 12)
    with pytest.raises(unitlab.UnitlabError, match="1 to 512 units; 513 were asked for"):
        page(ds, measures(ds))
    with pytest.raises(unitlab.UnitlabError, match="0 were asked for"):
        page(ds, measures(ds), units=[])
    with pytest.raises(unitlab.UnitlabError, match="no unit 600"):
        report(ds, tmp_path / "out.html", units=[600])
    assert payload(report(ds, tmp_path / "out.html", units=[512, 512, 3]).read_text("utf-8"))["held"]["units"] == [512, 3]
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["out.html"]


def test_what_cannot_be_written_is_said(study: xr.Dataset, tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none" / "out.html"):
        with pytest.raises(unitlab.UnitlabError, match="give a file name in a folder that exists"):
            report(study, path)
    with pytest.raises(unitlab.UnitlabError, match="no study 'nothing'"):
        report("nothing", tmp_path / "out.html")


def test_without_thumbnails_there_are_no_pictures(study: xr.Dataset, known: xr.Dataset) -> None:
    assert "keeps no thumbnails" in payload(page(study.drop_vars("thumbnails"), known))["tops"][0]["answer"]["missing"]


def test_progress_counts_the_units(study: xr.Dataset, known: xr.Dataset) -> None:
    seen: list[tuple[int, int]] = []
    page(study, known, units=[1, 2, 3], progress=lambda done, of: seen.append((done, of)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_findings_say_what_is_sure(known: xr.Dataset) -> None:
    sentence = str(unit_finding(known, 4))
    cell = known.sel(unit=4).isel(category=2)
    n_classes = known.sizes["category"]
    level = f"{100 - 5 / n_classes:.5g}"
    assert sentence.startswith(f"Unit 4 costs class 2 {100 * float(cell.accuracy_drop):.1f} points ({level} % interval ")
    limits = f"{points(float(cell.max_class_drop_low))} to {points(float(cell.max_class_drop_high))}"
    assert f"{limits}, as it is the worst of {n_classes} classes" in sentence
    assert cell.max_class_drop_low < cell.drop_low and cell.max_class_drop_high > cell.drop_high
    for name in ("overall_drop", "max_class_drop_crossfit"):
        limits = f"{points(float(cell[f'{name}_low']))} to {points(float(cell[f'{name}_high']))}"
        assert limits in sentence.partition("; overall")[2]
    q = benjamini_hochberg(known.p_overall.values)
    hurt = int(((q <= 0.05) & (known.overall_drop > 0)).sum())
    bound = f"none more than {points(float(known.overall_drop_bound))} points (95 %"
    assert f"{hurt} cost overall accuracy (q ≤ 0.05 over the units), {bound}" in study_finding(known)
    assert probability("q", float(cell.q_value)) in sentence and "damages specific classes" in sentence
    unsure = int(known.unit[int(known.p_specific.values.argmax())])
    assert "not shown" in str(unit_finding(known, unsure)) or "changes nothing" in str(unit_finding(known, unsure))
    for unit in known.unit.values:
        sentence, cell = str(unit_finding(known, unit)), known.sel(unit=unit)
        cell = cell.isel(category=int(cell.max_class))
        few = cell.n_changed < 6 and "not significant" in sentence
        assert few == ("too few of its images change for any p of 0.05" in sentence)
    assert known.attrs["tested"] in study_finding(known)
    assert points(-0.05) == "−5.0" and points(0.0) == "0.0" and points(-1e-9) == "0.0" and points(0.0004) == "0.04"
    assert points(0.5625) == "56.3" and points(-0.0625) == "−6.3" and points(np.float32(0.0045)) == "0.5"  # as the page does
    assert points(float("nan")) == "–" and probability("q", 0.0004) == "q < 0.001"


def test_scripts_and_styles_are_no_wider_than_the_python() -> None:
    from unitlab.views import page as shared
    from unitlab.views import report as written

    files = [path for module in (shared, written) for path in Path(module.__file__).parent.glob("*.[jc]s*")]
    assert len(files) > 20
    wide = [
        f"{path.name}:{n}" for path in files for n, line in enumerate(path.read_text("utf-8").split("\n"), 1) if len(line) > 128
    ]
    assert wide == []


def test_variables_go_by_their_titles_wherever_they_are_read() -> None:
    few = simulated_study(6, 20, 60, 3)
    known = measures(few)
    text = page(few, known)
    assert "Too few images" in text and "p_specific" in text
    sentences = " ".join("".join(row["answer"]["finding"]) for row in payload(text)["units"])
    read = re.sub(r"<(code|script|style|dl)\b(?! class).*?</\1>|<[^>]*>", " ", text, flags=re.S)
    told = re.sub(r"`.*?`", "", str(unitlab.describe(few)))
    words = set(re.findall(r"\w+", " ".join([read, sentences, told])))
    assert "damages" in words and words & {name for name in VARIABLES if "_" in name} == set()
