"""Are single units special? Units beside directions of rotated bases, over whole bases and at matched removed energy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from tqdm.auto import tqdm

from unitlab.analysis import LEVEL
from unitlab.analysis.comparisons.bundled_results import read_results, write_results
from unitlab.analysis.comparisons.resampled_images import bootstrap_weights, resampled_drops
from unitlab.analysis.discrimination import UNITS_AT_ONCE, discrimination, weighted_discrimination
from unitlab.analysis.paired_images import PairedImages
from unitlab.analysis.paired_tests import student_quantile
from unitlab.analysis.requirements import check_level, check_n_boot, require
from unitlab.analysis.splits import crossfit
from unitlab.analysis.undefined import leading, mean_of_defined, ratio
from unitlab.errors import UnitlabError, check_seed
from unitlab.schema import COMPARISON_VARIABLES, described

Array = np.ndarray[Any, Any]

MEASURES = (
    "removed_energy", "overall_drop", "max_class_drop", "max_class_drop_crossfit", "max_class_d_prime", "max_class_auc",
)  # fmt: skip
CALIPER = 1.25
POWERS = (0.25, 0.5, 0.75, 1)  # of the bundled comparisons


def compare_directions(
    units: xr.Dataset,
    directions: xr.Dataset | Sequence[xr.Dataset],
    *,
    level: float = LEVEL,
    seed: int = 0,
    n_boot: int = 200,
    progress: bool = True,
) -> xr.Dataset:
    """Units of a layer beside directions of rotated bases of it, such as random ones of several seeds.

    A whole basis, of units or of directions, removes all of the layer's energy once, so that both remove the same on
    average ("whole basis"). But a direction through the mean activation removes far more than others do, and damage grows
    with what is removed. So each direction is also set beside the unit that removes most nearly as much ("matched energy"),
    if one removes between 1/1.25 and 1.25 times as much; how many directions have such a unit is told.

    Parameters
    ----------
    units
        The study of the layer's units.
    directions
        Studies by ``unitlab.ablate(model, images, layer, basis=...)`` of the same network, images and layer.
    level
        Coverage of the intervals.
    seed
        Of the splits in halves of the cross-fitted maximum, and of the bootstrap.
    n_boot
        Samples of the images, with replacement, class by class and by cluster; at least 100.
    progress
        Whether a bar is shown where it takes more than two seconds.

    Returns
    -------
    xarray.Dataset
        ``unit_value`` (measure, unit) and ``direction_value`` (measure, basis, direction): the distributions of the removed
        energy, the overall drop, the raw and the cross-fitted max class drop, and the max over classes of d′ and of the area
        under the ROC curve. ``matched_unit`` (basis, direction): number of the unit of like energy, or −1. ``difference``
        (comparison, measure, basis): mean of the directions minus mean of the units, over the whole bases or over the matched
        pairs; ``difference_mean``, ``difference_low``, ``difference_high`` (comparison, measure): over the bases, with an
        interval for other bases *and* other images; ``difference_error_bases``, ``difference_error_images``: the standard
        errors that it adds. ``n_matched`` (basis).

    Raises
    ------
    UnitlabError
        Studies of other networks, images, layers or labels than the first; a study without ``removed_energy``.

    Notes
    -----
    Bases and images are crossed: all bases are measured on the same images. The images are resampled for all bases at once; few
    bases, resampled too, would vary too little (Owen, Ann. Appl. Stat. 1, 2007, resamples both), so theirs is Student's t. The
    squares of both half-widths are added (Zou and Donner, Stat. Med. 27, 2008).

    Examples
    --------
    >>> import unitlab
    >>> from unitlab.compute.networks import bundled_network
    >>> model, photos = bundled_network("vgg_fashion"), unitlab.images("fashion_mnist").subset(range(100))
    >>> options = {"layer": "conv3_2", "units": range(8), "progress": False}
    >>> rotated = [unitlab.ablate(model, photos, basis="random", seed=seed, **options) for seed in (0, 1)]
    >>> found = unitlab.compare_directions(unitlab.ablate(model, photos, **options), rotated)
    >>> found.difference.sizes["basis"]
    2
    """
    check_level(level)
    check_seed(seed)
    check_n_boot(n_boot)
    others = [directions] if isinstance(directions, xr.Dataset) else list(directions)
    _check(units, others)
    weights = bootstrap_weights(PairedImages(units, "compare_directions"), n_boot, np.random.default_rng(seed))
    of_units, units_resampled = _values(units, seed), _resampled(units, weights, seed)
    number = units["unit"].values
    of_directions = np.empty((len(MEASURES), len(others), others[0].sizes["unit"]))
    matched = np.empty(of_directions.shape[1:], np.int64)
    difference = np.empty((2, len(MEASURES), len(others)))
    resampled = np.empty((2, len(MEASURES), len(others), n_boot))
    for place, ds in enumerate(tqdm(others, "bases", disable=not progress, delay=2, leave=False)):
        of_directions[:, place] = _values(ds, seed)
        matched[place] = _nearest(of_units[0], of_directions[0, place])
        difference[:, :, place] = _differences(of_units, of_directions[:, place], matched[place])
        again = _differences(units_resampled, _resampled(ds, weights, seed), matched[place])
        resampled[:, :, place] = again.transpose(0, 2, 1)
    values = {
        "measure": np.array(MEASURES, dtype=object),
        "basis_name": np.array([str(ds.attrs["ablation"]) for ds in others], dtype=object),
        "comparison": np.array(["whole basis", "matched energy"], dtype=object),
        "unit": number,
        "direction": others[0]["unit"].values,
        "unit_value": of_units,
        "direction_value": of_directions,
        "matched_unit": np.where(matched >= 0, number[np.maximum(matched, 0)], -1).astype(np.int32),
        "n_matched": (matched >= 0).sum(1).astype(np.int32),
        "difference": difference,
        **crossed_interval(difference, resampled, level),
    }
    told = {"level": level, "seed": seed, "n_boot": n_boot, "caliper": CALIPER}
    return described(COMPARISON_VARIABLES, values, {**units.attrs, **told})


def random_bases(path: str | Path | None = None, *, power: float = 1.0) -> xr.Dataset:
    """The units of ``vgg_fashion`` beside the directions of ten random bases of the same layer, on all 10,000 images.

    What `compare_directions` gives for them, computed by data/rebuild/random_bases.py. Needs no torch.

    Parameters
    ----------
    path
        A file that the script wrote; default the bundled one.
    power
        How far the bases are turned: 1, or 0.25, 0.5 or 0.75, of five of them.

    Returns
    -------
    xarray.Dataset
        As `compare_directions` returns it, in memory.

    Raises
    ------
    UnitlabError
        The file is missing, damaged, or holds something else.

    Examples
    --------
    >>> import unitlab
    >>> unitlab.random_bases().difference.dims
    ('comparison', 'measure', 'basis')
    """
    if power not in POWERS:
        raise UnitlabError(f"power={power!r} is not bundled; there are {', '.join(map(str, POWERS))}")
    ending = "" if power == 1 else f"-power-{power:g}"
    script = "data/rebuild/random_bases.py"
    return read_results(path, f"random_bases/vgg_fashion{ending}.zarr.zip", COMPARISON_VARIABLES, script)


def write_random_bases(path: Path, comparison: xr.Dataset) -> None:
    """Write what `random_bases` reads."""
    values = {name: comparison[name].values for name in COMPARISON_VARIABLES}
    write_results(path, COMPARISON_VARIABLES, values, comparison.attrs)


def crossed_interval(difference: Array, resampled: Array, level: float) -> dict[str, Array]:
    """Mean over the last axis of ``difference`` (…, basis) with limits for other bases and other images.

    ``resampled`` (…, basis, sample) are the same differences on resampled images. Where a basis is not comparable (NaN), the
    others are taken.
    """
    n, n_samples = np.isfinite(difference).sum(-1), resampled.shape[-1]
    mean = mean_of_defined(difference)
    over_bases = np.sqrt(ratio(np.nansum((difference - mean[..., None]) ** 2, -1), n * np.maximum(n - 1, 0)))
    over_images = mean_of_defined(resampled.swapaxes(-1, -2)).std(-1, ddof=1)
    by_bases, by_images = (student_quantile((1 + level) / 2, count) for count in (np.maximum(n - 1, 1), n_samples - 1))
    half = np.hypot(by_bases * over_bases, by_images * over_images)
    return {
        "difference_mean": mean,
        "difference_error_bases": over_bases,
        "difference_error_images": over_images,
        "difference_low": mean - half,
        "difference_high": mean + half,
    }


def _check(units: xr.Dataset, others: list[xr.Dataset]) -> None:
    """Refuse studies that do not belong together."""
    if not others:
        raise UnitlabError(
            "directions is empty; give studies by unitlab.ablate(model, images, layer, basis='random', seed=...)"
        )
    for ds in [units, *others]:
        require(
            ds, ["unit", "category", "prediction", "overall_drop", "accuracy_drop", "activation_mean"], "compare_directions"
        )
        if "removed_energy" not in ds:
            raise UnitlabError(
                "the study does not tell the energy that an ablation removes: an earlier version computed it; compute it again "
                "with unitlab.ablate(model, images, layer)"
            )
    if "basis" in units:
        raise UnitlabError("units is a study of directions; give the layer's units first, then the directions")
    names = [str(ds.attrs.get("ablation")) for ds in others]
    for name, ds in zip(names, others, strict=True):
        if "basis" not in ds:
            raise UnitlabError(
                f"directions holds the study {name!r} of units; unitlab.ablate(..., basis='random') gives others"
            )
        if "directions" in ds.attrs:
            raise UnitlabError(
                f"the study {name!r} is of directions that are no basis, which do not remove all of the layer's energy once; "
                "give studies with basis="
            )
        for field in ("fingerprint_weights", "fingerprint_images", "fingerprint_labels", "site"):
            if ds.attrs.get(field) != units.attrs.get(field):
                what = field.removeprefix("fingerprint_")
                raise UnitlabError(f"the study {name!r} is of another {what} than the units' ({ds.attrs.get(field)!s:.24})")
        if ds.sizes["unit"] != others[0].sizes["unit"] or not np.array_equal(ds["unit"], others[0]["unit"]):
            raise UnitlabError(
                f"the study {name!r} has other directions than the first one; compute the same ones of each basis"
            )
    if len(set(names)) != len(names):
        raise UnitlabError(f"a basis occurs twice among {names}; give each once")


def _values(ds: xr.Dataset, seed: int) -> Array:
    """(measure, unit)."""
    told = discrimination(ds)
    found: dict[str, Array] = {
        "removed_energy": ds["removed_energy"].values,
        "overall_drop": ds["overall_drop"].values,
        "max_class_drop": leading(ds["accuracy_drop"].values)[0],
        "max_class_drop_crossfit": crossfit(PairedImages(ds, "compare_directions"), seed),
        "max_class_d_prime": told["max_class_d_prime"].values,
        "max_class_auc": told["max_class_auc"].values,
    }
    return np.stack([found[name].astype(float) for name in MEASURES])


def _resampled(ds: xr.Dataset, weights: Array, seed: int) -> Array:
    """The same (sample, measure, unit) where images count ``weights`` (image, sample) times; the removed energy stays."""
    images = PairedImages(ds, "compare_directions")
    values = np.empty((weights.shape[1], len(MEASURES), ds.sizes["unit"]))
    values[:, 0] = ds["removed_energy"].values
    # about 200 MB of sums
    width = int(np.clip((1 << 24) // (ds.sizes["unit"] * images.n_categories), 1, 50))
    for first in range(0, len(values), width):
        some = slice(first, first + width)
        # the same splits in halves for units and directions
        values[some, 1:4] = np.stack(resampled_drops(images, weights[:, some], seed), 1)
        for unit in range(0, ds.sizes["unit"], UNITS_AT_ONCE):
            those = slice(unit, unit + UNITS_AT_ONCE)
            activation = images.activations("activation_mean", those)
            told = weighted_discrimination(activation, images.position, images.n_categories, weights[:, some])
            for place, of_classes in enumerate(told, start=4):
                values[some, place, those] = leading(of_classes)[0]
    return values


def _differences(of_units: Array, of_directions: Array, matched: Array) -> Array:
    """(comparison, …): means of directions minus units (…, unit), over all and over matched pairs; NaN where there is none."""
    some = matched >= 0
    pairs = of_directions[..., some] - of_units[..., matched[some]]
    return np.stack([mean_of_defined(of_directions) - mean_of_defined(of_units), mean_of_defined(pairs)])


def _nearest(energy: Array, wanted: Array) -> Array:
    """For each wanted energy, the place of the nearest one in ratio, or −1 where none is within the caliper."""
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = np.abs(np.log(wanted[:, None]) - np.log(energy[None]))
    distance = np.where(np.isfinite(distance), distance, np.inf)
    place = distance.argmin(1)
    return np.where(distance.min(1) <= np.log(CALIPER), place, -1)
