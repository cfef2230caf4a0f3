"""Do attributes predict importances? Rank and linear correlations over units, with intervals."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import scipy
import xarray as xr

from unitlab.analysis import ALPHA, LEVEL
from unitlab.analysis.attributes import attributes, own_attributes
from unitlab.analysis.damage import damage
from unitlab.analysis.paired_tests import benjamini_hochberg, student_quantile
from unitlab.analysis.undefined import ratio
from unitlab.analysis.weighted_images import WEIGHTED, WeightedImages
from unitlab.errors import UnitlabError, nearest_names

Array = np.ndarray[Any, Any]

X = (
    "class_selectivity", "class_selectivity_max", "max_class_correlation", "l1_norm", "l1_norm_folded", "mutual_information",
    "top_precision", "fraction_active", "mean_activation", "max_activation", "first_order_margin_drop_overall",
)  # fmt: skip
KINDS = ("spearman", "pearson")
Y = ("overall_drop", "max_class_drop_crossfit")
OF_DROPS = {
    "overall_drop", "max_class_drop", "max_class_drop_crossfit", "max_z", "n_damaged", "concentration", "p_any", "p_specific",
}  # fmt: skip


def measures(ds: xr.Dataset, *, seed: int = 0, damage_alone: bool = False) -> xr.Dataset:
    """Attributes and damage of a study in one dataset, with the attributes that the reader has added.

    With ``damage_alone``, a study that lacks what attributes are computed from is measured without them.
    """
    try:
        known = attributes(ds)
    except UnitlabError:
        if not damage_alone:
            raise
        known = xr.Dataset()
    found = damage(ds, seed=seed).assign(own_attributes(ds))
    return found.merge(known.drop_attrs(deep=False), compat="override", combine_attrs="override")


def chosen(ds: xr.Dataset, names: str | Iterable[str], dims: Sequence[tuple[str, ...]]) -> list[str]:
    """``names`` as a list; refused where one is no variable with one of these dimensions."""
    names = [names] if isinstance(names, str) else list(names)
    valid = [str(name) for name, variable in ds.data_vars.items() if variable.dims in dims and variable.dtype.kind in "fi"]
    valid = [name for name in valid if not name.endswith("_class")]
    for name in names:
        if name not in valid:
            raise UnitlabError(
                f"the study has no attribute or importance {name!r} over {dims[0]}. {nearest_names(str(name), valid)}"
            )
    return names


def correlations(
    ds: xr.Dataset,
    x: str | Iterable[str] | None = None,
    y: str | Iterable[str] | None = None,
    *,
    n_boot: int = 1000,
    seed: int = 0,
    split: bool = False,
) -> pd.DataFrame:
    """Spearman and Pearson correlations over units of attributes with importances.

    Parameters
    ----------
    ds
        A study, as `unitlab.load` or `unitlab.ablate` give it.
    x, y
        Names of variables over ``unit`` of `unitlab.attributes` or `unitlab.damage`, or of your own that the dataset was
        given by ``ds.assign``; default the attributes, and ``overall_drop`` and ``max_class_drop_crossfit``.
    n_boot
        Bootstrap samples, at least 100.
    seed
        Of the bootstrap and of the halves.
    split
        Measure ``x`` on one random half of the images (class by class, clusters whole) and ``y`` on the other, so that
        chance which both share does not correlate them. What does not depend on single images stays as it is.

    Returns
    -------
    pandas.DataFrame
        One row a pair, ``x`` and ``y`` and: ``n_units`` with both values; for ``spearman`` and ``pearson`` the estimate,
        95 % percentile intervals over resampled units (``_low``, ``_high``) and over resampled image clusters
        (``_low_images``, ``_high_images``), two-sided ``_p`` and ``_q`` (Benjamini–Hochberg over the table);
        ``part_whole``: both are computed from the same drops, so that they correlate by construction; ``resampled``: which
        of ``x`` and ``y`` the image bootstrap measures again (the others are held; with neither, the interval is NaN).

    Raises
    ------
    UnitlabError
        An unknown variable (the nearest names are suggested), fewer than three units, fewer than 100 bootstrap samples.

    Notes
    -----
    Measured again on resampled images, a noisy quantity has the noise twice: intervals over images sit somewhat nearer to
    zero than the estimate.

    Examples
    --------
    >>> import unitlab
    >>> table = unitlab.correlations(unitlab.load("vgg_fashion"), "class_selectivity", n_boot=100)
    >>> list(table.y)
    ['overall_drop', 'max_class_drop_crossfit']
    """
    if isinstance(n_boot, bool) or not isinstance(n_boot, int | np.integer) or n_boot < 100:
        raise UnitlabError(f"n_boot is {n_boot!r}; expected a whole number, 100 or more")
    known = measures(ds, seed=seed)
    xs = chosen(known, x if x is not None else [name for name in X if name in known], [("unit",)])
    ys = chosen(known, y if y is not None else Y, [("unit",)])
    if ds.sizes["unit"] < 3:
        raise UnitlabError(f"correlations over units need at least three; the study has {ds.sizes['unit']}")
    random = np.random.default_rng(seed)
    values = {name: known[name].values.astype(float) for name in {*xs, *ys}}
    on_x, on_y = values, values
    weighted = WeightedImages(ds)
    again = [name for name in values if name in WEIGHTED]
    xs_again, ys_again = ([name for name in some if name in again] for some in (xs, ys))
    if split:
        half = weighted.half(random)
        on_x = {**values, **{name: found[0] for name, found in weighted.values(xs_again, half, random).items()}}
        on_y = {**values, **{name: found[0] for name, found in weighted.values(ys_again, 1 - half, random).items()}}
    parts_x, parts_y = [], []
    step = weighted.samples_at_once()
    for start in range(0, n_boot if again else 0, step):
        weights = weighted.bootstrap_weights(min(step, n_boot - start), random)
        if split:
            parts_x.append(weighted.values(xs_again, weights * half, random))
            parts_y.append(weighted.values(ys_again, weights * (1 - half), random))
        else:
            both = weighted.values(again, weights, random)
            parts_x.append(both)
            parts_y.append(both)
    samples_x = {name: np.concatenate([part[name] for part in parts_x]) for name in xs_again}
    samples_y = {name: np.concatenate([part[name] for part in parts_y]) for name in ys_again}
    rows = [_row(a, b, on_x[a], on_y[b], samples_x.get(a), samples_y.get(b), n_boot, random) for a in xs for b in ys]
    table = pd.DataFrame(rows)
    for kind in KINDS:
        place = list(table.columns).index(f"{kind}_p")
        table.insert(place + 1, f"{kind}_q", benjamini_hochberg(table[f"{kind}_p"].to_numpy(float)))
    table.attrs = {
        "n_boot": n_boot, "seed": seed, "split": split, "study": ds.attrs.get("name", ""), "layer": ds.attrs.get("layer", ""),
    }  # fmt: skip
    return table


def _row(
    a: str, b: str, x: Array, y: Array, again_x: Array | None, again_y: Array | None, n_boot: int, random: np.random.Generator
) -> dict[str, Any]:
    both = np.isfinite(x) & np.isfinite(y)
    resampled = [name for name, again in ((a, again_x), (b, again_y)) if again is not None]
    row: dict[str, Any] = {"x": a, "y": b, "n_units": int(both.sum())}
    units = random.integers(0, max(int(both.sum()), 1), (n_boot, int(both.sum())))
    left, right = None, None
    if resampled:
        left = np.broadcast_to(x if again_x is None else again_x, (n_boot, len(x)))[:, both]
        right = np.broadcast_to(y if again_y is None else again_y, (n_boot, len(y)))[:, both]
    x, y = x[both], y[both]
    defined = len(x) >= 3 and bool(np.ptp(x) > 0) and bool(np.ptp(y) > 0)
    for kind, test in (("spearman", scipy.stats.spearmanr), ("pearson", scipy.stats.pearsonr)):
        found = test(x, y) if defined else None
        row[kind] = float(found.statistic) if found is not None else np.nan
        over_units = _coefficients(kind, x[units], y[units]) if defined else np.empty(0)
        over_images = _coefficients(kind, left, right) if defined and left is not None and right is not None else np.empty(0)
        row[f"{kind}_low"], row[f"{kind}_high"] = _limits(over_units)
        row[f"{kind}_low_images"], row[f"{kind}_high_images"] = _limits(over_images)
        row[f"{kind}_p"] = float(found.pvalue) if found is not None else np.nan
    row["part_whole"] = a != b and a in OF_DROPS and b in OF_DROPS
    row["resampled"] = " and ".join(resampled) or "neither"
    return row


def _coefficients(kind: str, x: Array, y: Array) -> Array:
    """Correlation of each row of ``x`` with that of ``y``."""
    if kind == "spearman":
        x, y = scipy.stats.rankdata(x, axis=1), scipy.stats.rankdata(y, axis=1)
    x, y = x - x.mean(1, keepdims=True), y - y.mean(1, keepdims=True)
    return ratio((x * y).sum(1), np.sqrt((x**2).sum(1) * (y**2).sum(1)))


def _limits(values: Array) -> tuple[float, float]:
    values = values[np.isfinite(values)]
    if len(values) < 20:
        return np.nan, np.nan
    low, high = np.quantile(values, [ALPHA / 2, 1 - ALPHA / 2])
    return float(low), float(high)


def fitted_line(x: Array, y: Array, *, level: float = LEVEL) -> dict[str, Any]:
    """Least-squares line of y on x with the band of its mean (``x``, ``fit``, ``low``, ``high``) and both coefficients."""
    both = np.isfinite(x) & np.isfinite(y)
    x, y = x[both], y[both]
    if len(x) < 3 or np.ptp(x) == 0:
        raise UnitlabError(f"a line needs three units with both values and different x; given {len(x)}")
    slope, intercept = np.polyfit(x, y, 1)
    at = np.linspace(x.min(), x.max(), 50)
    residual = y - slope * x - intercept
    error = np.sqrt((residual**2).sum() / (len(x) - 2))
    half = student_quantile((1 + level) / 2, len(x) - 2) * error
    half = half * np.sqrt(1 / len(x) + (at - x.mean()) ** 2 / ((x - x.mean()) ** 2).sum())
    fit = slope * at + intercept
    constant = np.ptp(y) == 0
    return {
        "x": at, "fit": fit, "low": fit - half, "high": fit + half, "slope": float(slope), "n_units": len(x),
        "spearman": np.nan if constant else float(scipy.stats.spearmanr(x, y).statistic),
        "pearson": np.nan if constant else float(scipy.stats.pearsonr(x, y).statistic),
    }  # fmt: skip
