"""Do attributes predict importances? Rank and linear correlations over units, with intervals."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pandas as pd
import scipy
import xarray as xr

from unitlab.analysis import LEVEL
from unitlab.analysis.attributes import attributes_with, own_attributes
from unitlab.analysis.damage import damage, largest_drop
from unitlab.analysis.jackknife import correlation_interval, fisher_z, image_groups, jackknife_variance, unit_groups
from unitlab.analysis.left_out_images import MEASURED, LeftOutImages
from unitlab.analysis.paired_images import PairedImages
from unitlab.analysis.paired_tests import benjamini_hochberg, student_quantile
from unitlab.analysis.requirements import require, require_all_pairs
from unitlab.analysis.splits import crossfit
from unitlab.analysis.undefined import ratio
from unitlab.errors import UnitlabError, check_seed, nearest_names
from unitlab.progress import shown_progress, stages
from unitlab.schema import described_like
from unitlab.schema.variable import CELL, UNIT

Array = np.ndarray[Any, Any]

X = (
    "class_selectivity", "class_selectivity_max", "max_class_correlation", "l1_norm", "l1_norm_folded", "mutual_information",
    "top_precision", "fraction_active", "mean_activation", "max_activation", "first_order_margin_drop_overall",
)  # fmt: skip
KINDS = ("spearman", "pearson")
Y = ("overall_drop", "max_class_drop_crossfit")
QUICK = ("accuracy_drop", "overall_drop", "max_class_drop", "max_class_drop_crossfit")  # damage that needs no tests
POSITIONS = ("max_class", "max_correlation_class")  # numbers of classes are no measures
# depend on no image
OF_FILTERS = {
    "l1_norm", "l2_norm", "l1_norm_folded", "l2_norm_folded", "batch_norm_scale", "outgoing_l1_norm", "outgoing_l2_norm",
}  # fmt: skip
# the study keeps too little to measure these without some images
HELD = {"max_class_correlation", "first_order_margin_drop_overall"}
OF_DROPS = {
    "overall_drop", "max_class_drop", "max_class_drop_crossfit", "max_z", "n_damaged", "concentration", "p_any", "p_specific",
    "p_overall", "p_concentration",
}  # fmt: skip


def measures(
    ds: xr.Dataset,
    *,
    seed: int = 0,
    damage_alone: bool = False,
    only: Iterable[str] | None = None,
    progress: bool = False,
) -> xr.Dataset:
    """Attributes and damage of a study in one dataset, with the attributes that the reader has added.

    With ``damage_alone``, a study that lacks what attributes are computed from is measured without them. ``only`` names what
    is wanted: where that needs no tests and no attributes, they are not computed.
    """
    require_all_pairs(ds, "the comparison of units")
    quickly = None if only is None else set(only)
    known = xr.Dataset()
    with stages("measures", 2, progress and not damage_alone) as begin, ThreadPoolExecutor(1) as beside:
        begin("attributes")
        if quickly is None or not quickly <= {*QUICK, *own_attributes(ds)}:
            attributes = beside.submit(attributes_with, ds, information=quickly is None or "mutual_information" in quickly)
            if damage_alone:  # whatever the study lacks for attributes, so that neither waits for the other
                found = damage(ds, seed=seed, progress=progress)
            try:
                known = attributes.result()
            except UnitlabError:
                if not damage_alone:
                    raise
        without = {"first_order_margin_drop_overall"}  # where the study has none
        quick = quickly is not None and quickly <= {*QUICK, *own_attributes(ds), *known.data_vars, *without}
        if quick:
            begin("drops")
            found = _quick_damage(ds, seed)
    if not quick and not damage_alone:
        found = damage(ds, seed=seed, progress=progress)
    found = found.assign(own_attributes(ds))
    return found.merge(known.drop_attrs(deep=False), compat="override", combine_attrs="override")


def _quick_damage(ds: xr.Dataset, seed: int) -> xr.Dataset:
    images = PairedImages(ds, "correlations")
    require(ds, ["accuracy_drop", "overall_drop"], "correlations")
    values = {
        "accuracy_drop": ds["accuracy_drop"].values,
        "overall_drop": ds["overall_drop"].values,
        **largest_drop(ds["accuracy_drop"].values),
        "max_class_drop_crossfit": crossfit(images, seed),
    }
    return described_like(ds, values, {})


def chosen(ds: xr.Dataset, names: str | Iterable[str], dims: Sequence[tuple[str, ...]]) -> list[str]:
    """``names`` as a list; refused where one is no variable with one of these dimensions."""
    names = [names] if isinstance(names, str) else list(names)
    known = [str(name) for name, variable in ds.data_vars.items() if variable.dtype.kind in "fi" and name not in POSITIONS]
    valid = [name for name in known if ds[name].dims in dims]
    for name in names:
        near = nearest_names(str(name), valid)
        if name not in valid and name in known and ds[name].dims == CELL:
            raise UnitlabError(
                f"{name!r} has a value for each unit and class, and one for each unit is wanted here. {near} Rows of units and "
                f"classes has a regression of one over both: unitlab.regression(ds, 'accuracy_drop', [{name!r}])"
            )
        if name not in valid:
            raise UnitlabError(f"the study has no attribute or importance {name!r} over {' or '.join(map(str, dims))}. {near}")
    return names


def correlations(  # noqa: PLR0913
    ds: xr.Dataset,
    x: str | Iterable[str] | None = None,
    y: str | Iterable[str] | None = None,
    *,
    given: str | Iterable[str] = (),
    other: xr.Dataset | None = None,
    held: str | Iterable[str] = (),
    split: bool = False,
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """Spearman and Pearson correlations over units of attributes with importances.

    Parameters
    ----------
    ds
        A study, as `unitlab.load` or `unitlab.ablate` give it, or its name or path.
    x, y
        Names of variables over ``unit`` of `unitlab.attributes` or `unitlab.damage`, or of your own that the dataset was
        given by ``ds.assign``; default the attributes, and ``overall_drop`` and ``max_class_drop_crossfit``.
    given
        Variables whose linear part (for Spearman: of the ranks) is taken out of both: partial correlations.
    other
        A second study of the same units, another ablation or other images: ``y`` is measured in it.
    held
        Variables of your own (or ones that cannot be measured again, such as ``p_specific``) to take as they are: the
        interval then leaves their sampling out, and ``covers`` says so.
    split
        Measure ``x`` (and ``given``) on one random half of the images (class by class, clusters whole) and ``y`` on the
        other, so that chance which both share does not correlate them. What does not depend on single images stays as it is.
    seed
        Of groups and halves.
    progress
        Show a bar where it takes more than two seconds.

    Returns
    -------
    pandas.DataFrame
        One row a pair, ``x`` and ``y`` and: ``n_units`` with all values; for ``spearman`` and ``pearson`` the estimate, its
        95 % interval (``_low``, ``_high``), two-sided ``_p`` and ``_q`` (Benjamini–Hochberg over the table), all three over
        sampled units and images; ``covers``: which sampling that is; ``part_whole``: both are computed from the same drops,
        so that they correlate by construction. The estimate is of the correlation at this number of images: more images
        would leave less noise in both, and a larger correlation. Interval, p and q are NaN where the correlation is
        undefined or ±1, and where a variable cannot be measured again and is not ``held`` (one of your own: it may come from
        other images).

    Raises
    ------
    UnitlabError
        An unknown variable (the nearest names are suggested), fewer than three units, an ``other`` that has other units.

    Notes
    -----
    Fisher's z ± t·√(V over units + V over images), with delete-group jackknife variances (Busing, Meijer and van der Leeden
    1999) and Satterthwaite's degrees of freedom: up to 20 groups of whole image clusters, dealt class by class, and up to 50
    groups of units; units whose activations correlate above 0.8 are in one group, since near-copies are no independent units.

    Examples
    --------
    >>> import unitlab
    >>> table = unitlab.correlations(unitlab.load("vgg_fashion"), "class_selectivity")
    >>> list(table.y)
    ['overall_drop', 'max_class_drop_crossfit']
    """
    check_seed(seed)
    wanted, beside, kept = (named(some) for some in (x, given, held))
    asked_y = list(Y) if y is None else named(y)
    second = ds if other is None else other
    _check_same_units(ds, second)
    only = [*(wanted or X), *beside, *kept]
    known = measures(ds, seed=seed, only=[*only, *asked_y] if other is None else only, progress=progress)
    known_y = known if other is None else measures(second, seed=seed, only=[*asked_y, *kept], progress=progress)
    xs = chosen(known, wanted if x is not None else [name for name in X if name in known and name not in beside], [UNIT])
    ys, beside = chosen(known_y, asked_y, [UNIT]), chosen(known, beside, [UNIT])
    if strange := [name for name in kept if name not in {*xs, *ys, *beside}]:
        raise UnitlabError(
            f"held names {strange[0]!r}, which is none of x, y and given. {nearest_names(strange[0], [*xs, *ys])}"
        )
    for name in {*xs, *ys} & set(beside):
        raise UnitlabError(f"{name!r} is given and cannot be correlated, too; leave it out of x and y, or of given")
    if ds.sizes["unit"] < 3:
        raise UnitlabError(f"correlations over units need at least three; the study has {ds.sizes['unit']}")
    random = np.random.default_rng(seed)
    studies = [ds] if other is None else [ds, second]
    left_out = left_out_images(studies, seed)
    half_x, half_y = _opposite_halves(left_out, random) if split else (None, None)
    side_x = _Side(known, left_out[0], half_x, [*xs, *beside], progress)
    side_y = _Side(known_y, left_out[-1], half_y, ys, progress)
    units = unit_groups(studies, random)
    rows = []
    pairs = [(a, b) for a in xs for b in ys]
    for a, b in shown_progress(pairs, "correlations", progress):
        columns = [side_x.column(a), side_y.column(b), *(side_x.column(name) for name in beside)]
        covered = _covers([side_x.sampling(a), side_y.sampling(b), *map(side_x.sampling, beside)], kept)
        row = {"x": a, "y": b, **estimates(columns, units, left_out[0].share, bool(covered))}
        row["part_whole"] = (a != b or other is not None) and a in OF_DROPS and b in OF_DROPS
        rows.append({**row, "covers": covered})
    table = pd.DataFrame(rows)
    for kind in KINDS:
        place = list(table.columns).index(f"{kind}_p")
        table.insert(place + 1, f"{kind}_q", benjamini_hochberg(table[f"{kind}_p"].to_numpy(float)))
    about = {"study": ds.attrs.get("name", ""), "layer": ds.attrs.get("layer", "")}
    table.attrs = {"seed": seed, "split": split, "given": beside, **about}
    return table


def named(names: str | Iterable[str] | None) -> list[str]:
    """One name or several, as a list."""
    return [] if names is None else [names] if isinstance(names, str) else list(names)


def _check_same_units(ds: xr.Dataset, other: xr.Dataset) -> None:
    for one in (ds, other):
        require(one, ["unit", "image"], "correlations")
    if not np.array_equal(ds["unit"].values, other["unit"].values):
        raise UnitlabError(
            f"the two studies have other units ({ds.sizes['unit']} and {other.sizes['unit']}); give both with the same, in the "
            "same order: other.sel(unit=ds.unit)"
        )


def left_out_images(studies: Sequence[xr.Dataset], seed: int, what: str = "correlations") -> list[LeftOutImages]:
    """Groups of images to leave out, the same in all studies for an image that several have."""
    random = np.random.default_rng(seed)
    found: list[LeftOutImages] = []
    known: dict[str, int] = {}
    for ds in studies:
        images = PairedImages(ds, what)
        group = image_groups(images, random, known)
        if len(studies) > 1:
            ids = ds["image"].values[images.order]
            known |= {str(one): int(number) for one, number in zip(ids, group, strict=True)}
        found.append(LeftOutImages(images, group, seed))
    return found


def _opposite_halves(left_out: Sequence[LeftOutImages], random: np.random.Generator) -> tuple[Array, Array]:
    """A half of the first study's images, and of the last study's those that are not in it."""
    half = left_out[0].half(random)
    if len(left_out) == 1:
        return half, ~half
    ids, others = (one.ds["image"].values[one.images.order].astype(str) for one in left_out)
    return half, np.where(np.isin(others, ids), ~np.isin(others, ids[half]), left_out[1].half(random))


class _Side:
    """The variables of one side: of all images, and without each group of them where that can be measured."""

    def __init__(
        self, known: xr.Dataset, left_out: LeftOutImages, half: Array | None, names: list[str], progress: bool
    ) -> None:
        self.names = [name for name in dict.fromkeys(names) if name in MEASURED and name not in own_attributes(known)]
        self.known, self.n_groups = known, left_out.n_groups
        self.again = left_out.values(self.names, half, progress)
        self.split = half is not None

    def column(self, name: str) -> Array:
        """(all and without each group, unit)."""
        known = self.known[name].values.astype(float)
        if name not in self.again:
            return np.broadcast_to(known, (1 + self.n_groups, len(known)))
        again = self.again[name].astype(float)
        # the study's own value has more splits, and bits that are not kept
        return again if self.split else again - again[:1] + known

    def sampling(self, name: str) -> tuple[str, str]:
        """Name, and how its sampling of images is treated: "measured", "exact", "held" or "unknown"."""
        if name in self.again:
            return name, "measured"
        return name, "exact" if name in OF_FILTERS else "held" if name in HELD else "unknown"


def _covers(sides: Sequence[tuple[str, str]], held: Sequence[str]) -> str:
    """Which sampling an interval of these variables covers; empty where that of one is unknown."""
    sides = [(name, "held" if name in held else how) for name, how in sides]
    if any(how == "unknown" for _, how in sides):
        return ""
    measured = [name for name, how in sides if how == "measured"]
    if all(how != "held" for _, how in sides):
        return "units and images" if measured else "units"
    return f"units, and images of {', '.join(dict.fromkeys(measured))}" if measured else "units"


def estimates(columns: Sequence[Array], units: Array, share: Array, covered: bool) -> dict[str, Any]:
    """Both correlations of the first two columns (all and without each group, unit), given the others, with intervals."""
    whole = np.stack([column[0] for column in columns])
    both = np.isfinite(whole).all(0)
    found: dict[str, Any] = {"n_units": int(both.sum())}
    values = np.stack([column[:, both] for column in columns])
    group = np.unique(units[both], return_inverse=True)[1]
    defined = int(both.sum()) >= len(columns) + 1 and bool((np.ptp(values[:, 0], axis=1) > 0).all())
    for kind in KINDS:
        low = high = p = r = np.array(np.nan)
        if defined:
            r = correlation(kind, values[:, 0])
            groups = range(int(group.max()) + 1)
            without = np.array([correlation(kind, values[:, 0, group != one]) for one in groups])
            again = np.array([correlation(kind, one) for one in np.moveaxis(values[:, 1:], 0, 1)])
            over_units = jackknife_variance(fisher_z(r), fisher_z(without), np.bincount(group) / len(group))
            over_images = jackknife_variance(fisher_z(r), fisher_z(again), share)
            if covered:
                low, high, p = correlation_interval(r, [over_units, over_images])
        found.update({kind: float(r), f"{kind}_low": float(low), f"{kind}_high": float(high), f"{kind}_p": float(p)})
    return found


def correlation(kind: str, values: Array) -> Array:
    """Correlation of the first two rows, given the others."""
    if kind == "spearman":
        values = scipy.stats.rankdata(values, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        r = np.corrcoef(values)
    if len(values) == 2 or not np.isfinite(r).all():
        return np.asarray(r[0, 1])
    inverse = np.linalg.pinv(r, hermitian=True)
    return np.asarray(np.clip(ratio(-inverse[0, 1], np.sqrt(inverse[0, 0] * inverse[1, 1])), -1, 1))


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
