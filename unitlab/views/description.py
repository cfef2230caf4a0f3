"""A study in the words and numbers of a paper: a methods paragraph and a table, as Markdown."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from unitlab.analysis import ALPHA, LEVEL
from unitlab.analysis.accuracies import accuracy_interval
from unitlab.analysis.attributes import undefined_attributes
from unitlab.analysis.correlations import measures
from unitlab.analysis.paired_tests import benjamini_hochberg
from unitlab.analysis.requirements import require
from unitlab.errors import units_in_ranges, units_named
from unitlab.version import __version__
from unitlab.views.words import quantity

ABLATIONS = {
    "zero": "set to zero",
    "mean": "set to its mean over all images and positions",
    "resample": "replaced by its map on another image, drawn at random",
}


class Description(str):
    """Markdown; Jupyter shows it as such."""

    def _repr_markdown_(self) -> str:
        return str(self)


def describe(ds: xr.Dataset, *, progress: bool = True) -> Description:
    """What a paper says of a study: how it was made, what was excluded, and the numbers to report, as Markdown.

    Parameters
    ----------
    ds
        A study, as `unitlab.load` or `unitlab.ablate` give it, or its name or path.
    progress
        Show a bar where it takes more than two seconds.

    Returns
    -------
    Description
        A `str`; as the last expression of a cell it is shown as text. A methods paragraph from the study's own attributes
        (network, layer, kind of ablation, images, baseline, proof, statistics), what was excluded and why, and a table: of all
        units, the bound of the overall drop, units with specific damage by flips and by margins, damaged cells and how many
        could be tested, reliability; of the unit with the largest cross-fitted drop, that drop with its interval and its p
        beside the raw maximum. What the study does not say is not said.

    Raises
    ------
    UnitlabError
        ``ds`` is no study (the message says what it lacks).

    Examples
    --------
    >>> import unitlab
    >>> text = unitlab.describe("vgg_fashion")
    >>> text.startswith("### Methods")
    True
    """
    require(ds, ["unit", "category", "label", "baseline_prediction"], "describe")
    known = measures(ds, damage_alone=True, progress=progress)
    rows = "\n".join(f"| {name} | {value} |" for name, value in _rows(known))
    excluded = " ".join(_excluded(ds, known)) or "Nothing was excluded."
    return Description(
        f"### Methods\n\n{_methods(ds, known)}\n\n### What was excluded\n\n{excluded}\n\n"
        f"### Numbers\n\n| | |\n| --- | --- |\n{rows}\n"
    )


def _methods(ds: xr.Dataset, known: xr.Dataset) -> str:
    attrs, directions, clustered = ds.attrs, "basis" in ds, "cluster" in ds
    channels, kind = int(attrs.get("channels", ds.sizes["unit"])), str(attrs.get("ablation", "zero"))
    some = "of the" if ds.sizes["unit"] == channels else "of"
    units = f"{channels} directions" if directions else units_named(ds["unit"].values, channels).removeprefix("all ")
    seed = f" (seed {attrs['seed']})" if kind == "resample" and "seed" in attrs else ""
    labels = "the network's own predictions" if attrs.get("labels") == "predicted" else "their labels"
    by = "clusters of images that belong together" if clustered else "images"
    said = [
        f"Each {some} {units} of the layer {_text(attrs.get('layer', ''))}{_if(attrs, 'site', ' ({})')}"
        f"{_if(attrs, 'network', ' of the network “{}”')}{_if(attrs, 'training', ' (training: {})')} was "
        f"{ABLATIONS.get(kind, f'ablated ({_text(kind)})')}{seed}, one at a time{_if(attrs, 'precision', ', in {}')}.",
        f"After each ablation the classes predicted for {ds.sizes['image']:,} images{_if(attrs, 'images', ' of {}')}"
        + (f", in {len(np.unique(ds['cluster'].values)):,} clusters," if clustered else "")
        + f" in {_classes(known):,} classes were compared with {labels}.",
        "The weights were not those of the recipe." if attrs.get("weights_are_the_recipes") in (False, 0, "False") else "",
        _if(attrs, "transform", "The images were transformed by {}."),
        "" if attrs.get("labels") == "predicted" else _baseline(ds),
        proof(attrs),
        "The drop of a class is its accuracy before less that after.",
        _if(attrs, "outcome", "The outcome “{}” of every image was measured before and after each ablation, too."),
        f"Intervals ({100 * float(known.attrs.get('level', LEVEL)):g} %) and tests are over {by}; network and units are these.",
        f"Cells are tested by {'sign flips of the sums of clusters' if clustered else 'the exact McNemar test'}, adjusted for "
        "false discoveries (Döhler, Durand and Roquain 2018).",
        "The largest drop over classes is cross-fitted: its class is chosen on one half of the images and its drop measured on "
        f"the other, mean over {known.attrs['n_splits']} splits.",
        "A unit's damage is specific where its lost and won images fall on some classes more than if classes were shuffled "
        "among images that are alike at the baseline; likewise for margins.",
        f"Computed with unitlab {_text(attrs.get('unitlab_version', __version__))}{_if(attrs, 'versions', ' ({})')}; "
        f"statistics by unitlab {__version__}, seed {known.attrs['seed']}.",
    ]
    return " ".join(filter(None, said))


def _text(value: object) -> str:
    """What a study says, as text: nothing of it becomes markup."""
    return re.sub(r"([|*`$\[\]\\])", r"\\\1", html.escape(" ".join(str(value).split()), quote=False))


def _if(attrs: Mapping[str, Any], name: str, sentence: str) -> str:
    """``sentence`` with the attribute, where there is one."""
    return sentence.format(_text(attrs[name])) if attrs.get(name) not in (None, "") else ""


def _baseline(ds: xr.Dataset) -> str:
    right = (ds["baseline_prediction"] == ds["label"]).values
    low, high = accuracy_interval(right, ds["cluster"].values if "cluster" in ds else None)
    recorded = f"; {float(ds.attrs['top1_accuracy']):.1%} is recorded" if "top1_accuracy" in ds.attrs else ""
    return f"Before ablation {right.mean():.1%} were right ({100 * LEVEL:g} % interval {low:.1%} to {high:.1%}{recorded})."


def proof(attrs: Mapping[str, Any]) -> str:
    """How many pairs were compared with plain forward hooks, and what differed."""
    if "verified_compared" not in attrs:
        return "No sample was compared with plain forward hooks."
    return (
        f"{_text(attrs['verified_compared'])} (unit, image) pairs were compared with plain forward hooks: "
        f"{_text(attrs.get('verified_different', 0))} differed, {_text(attrs.get('verified_excused', 0))} were ties within "
        "float noise."
    )


def _classes(known: xr.Dataset) -> int:
    return int((known["n_images"].values > 0).sum())


def _excluded(ds: xr.Dataset, known: xr.Dataset) -> list[str]:
    """What takes no part in which numbers, and why."""
    said = []
    channels = int(ds.attrs.get("channels", ds.sizes["unit"]))
    if ds.sizes["unit"] < channels and "basis" not in ds:
        said.append(f"{channels - ds.sizes['unit']:,} of the layer's {channels:,} units were not ablated.")
    empty = ds.sizes["category"] - _classes(known)
    if empty:
        said.append(f"{empty:,} of {ds.sizes['category']:,} classes have no image: nothing was measured of them.")
    small = known["margin_specific"].isnull().all("unit").values & (known["n_images"].values > 0)
    if small.any():
        said.append(f"{int(small.sum()):,} classes of fewer than five images (clusters) have no specific margin drop.")
    if "max_activation" in known:
        dead = known["unit"].values[known["max_activation"].values <= 0]
        if len(dead):
            said.append(f"{len(dead):,} units are never active on these images ({units_in_ranges(dead)}); they are counted.")
    undefined = undefined_attributes(ds) if "class_activation" in ds else ""
    if undefined:
        titles = re.sub(r"\w+_\w+", lambda name: quantity(name[0]).label, undefined)
        said.append(f"Undefined for this layer: {titles}.")
    return [*said, str(known.attrs["tested"])]


def _rows(known: xr.Dataset) -> list[tuple[str, str]]:
    """Name and value of what is reported."""
    n, level = known.sizes["unit"], float(known.attrs.get("level", LEVEL))
    found = {name: known[name].values for name in known.data_vars if known[name].dims == ("unit",)}
    hurt = (benjamini_hochberg(found["p_overall"]) <= ALPHA) & (found["overall_drop"] > 0)
    specific, margins = (benjamini_hochberg(found[name]) <= ALPHA for name in ("p_specific", "p_margin_specific"))
    own = (known["margin_specific_q_value"] <= ALPHA) & (known["margin_specific"] > 0)
    crossfit = found["max_class_drop_crossfit"]
    rows = [
        ("overall drop, median unit", f"{_points(np.median(found['overall_drop']))} points"),
        (f"no unit costs more overall than ({100 * level:g} %, one-sided)", f"{_points(known['overall_drop_bound'])} points"),
        (f"units that cost overall accuracy (q ≤ {ALPHA:g})", f"{int(hurt.sum()):,} of {n:,}"),
        ("largest class drop, cross-fitted, median unit", f"{_points(np.nanmedian(crossfit))} points"),
        (f"units that damage specific classes (q ≤ {ALPHA:g})", f"{int(specific.sum()):,} of {n:,}"),
        (f"units whose margins single out classes (q ≤ {ALPHA:g})", f"{int(margins.sum()):,} of {n:,}"),
        (f"unit–class pairs damaged (q ≤ {ALPHA:g})", f"{int(known['damaged'].sum()):,} of {known.attrs['n_cells']:,}"),
        ("pairs in which enough images change for a test", f"{known.attrs['n_tested']:,} of {known.attrs['n_cells']:,}"),
        (f"pairs that lose margin of their own (q ≤ {ALPHA:g})", f"{int(own.sum()):,}"),
        *_outcome(known),
        (
            "reliability of the drops (split-half, without unit and class means)",
            f"{_decimal(known['reliability'])} ({_decimal(known['reliability_low'])} to {_decimal(known['reliability_high'])})",
        ),
    ]
    if np.isfinite(crossfit).any():
        most = known.isel(unit=int(np.nanargmax(crossfit)))
        drop = most["max_class_drop_crossfit"]
        limits = f"{_points(most['max_class_drop_crossfit_low'])} to {_points(most['max_class_drop_crossfit_high'])}"
        worst = f"“{_text(known['category'].values[int(most['max_class'])])}”"
        rows += [
            (
                f"unit {int(most['unit'])}: largest class drop, cross-fitted",
                f"{_points(drop)} points ({limits}, all units at once)",
            ),
            (f"… its {quantity('p_specific').title}", f"{float(most['p_specific']):.3g}"),
            (f"… its raw maximum, of {worst} (biased upward)", f"{_points(most['max_class_drop'])} points"),
        ]
    return rows


def _outcome(known: xr.Dataset) -> list[tuple[str, str]]:
    if "q_overall_outcome" not in known:
        return []
    n = int((known["q_overall_outcome"] <= ALPHA).sum())
    return [(f"units that change the outcome over all images (q ≤ {ALPHA:g})", f"{n:,} of {known.sizes['unit']:,}")]


def _points(drop: Any) -> str:
    value = 100 * float(drop)
    return f"{value:.2f}".replace("-", "−") if np.isfinite(value) else "–"


def _decimal(value: Any) -> str:
    return f"{float(value):.2f}".replace("-", "−") if np.isfinite(float(value)) else "–"
