"""An importance on several attributes: least squares with cross-validated R²."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from unitlab.analysis import ALPHA
from unitlab.analysis.correlations import chosen, measures
from unitlab.analysis.paired_tests import student_quantile
from unitlab.errors import UnitlabError
from unitlab.schema.variable import CELL, UNIT

Array = np.ndarray[Any, Any]


def regression(
    ds: xr.Dataset, y: str, x: Iterable[str], *, folds: int = 5, seed: int = 0, progress: bool = True
) -> pd.DataFrame:
    """Least squares of an importance on several attributes, judged on units that it has not seen.

    Parameters
    ----------
    ds
        A study, as `unitlab.load` or `unitlab.ablate` give it, or its name or path.
    y
        A variable of `unitlab.damage`, over ``unit`` or over ``unit, category``; this decides what a row is.
    x
        Variables of `unitlab.attributes` or `unitlab.damage` over ``unit``, or of your own that the dataset was given by
        ``ds.assign``; where ``y`` has classes, also those over ``unit, category`` (``class_correlation``,
        ``class_activation``, ``first_order_margin_drop``).
    folds
        Parts of the cross-validation, 2 or more; all cells of a unit are in one.
    seed
        Of the folds.
    progress
        Show a bar where it takes more than two seconds.

    Returns
    -------
    pandas.DataFrame
        One row an attribute: ``coefficient`` (standard deviations of ``y`` per standard deviation) with a 95 % interval
        ``coefficient_low``, ``coefficient_high``, ``r2_alone`` (cross-validated R² of this attribute alone) and
        ``r2_without`` (of all others). ``attrs``: ``covers`` (which sampling the intervals cover: units, and where ``y`` has
        classes also classes; the images are those of the study), ``r2`` (cross-validated, 1 − SSE/SST with the mean of
        the training folds; negative where the fit predicts worse than that mean), ``r2_in_sample``, ``n_rows``,
        ``n_units``, ``folds``, ``y``.

    Raises
    ------
    UnitlabError
        An unknown variable, one with classes for a ``y`` without, too few units, folds that are none.

    Notes
    -----
    Errors are clustered by unit, and where ``y`` has classes by unit and by class (Cameron, Gelbach and Miller, J. Bus. Econ.
    Stat. 29, 2011), with a variance no less than that of either alone and Student's t of the fewer clusters: an attribute that
    is noise, partly shared by the units of a class, is clear of zero in 2 to 6 % of the draws (with ten and sixty classes).

    Examples
    --------
    >>> import unitlab
    >>> found = unitlab.regression(unitlab.load("vgg_fashion"), "accuracy_drop", ["class_correlation", "class_activation"])
    >>> found.attrs["n_units"]
    64
    """
    if not isinstance(y, str):
        raise UnitlabError(f"y is {y!r}; expected the name of one importance, for example 'accuracy_drop'")
    x = [x] if isinstance(x, str) else list(x)
    known = measures(ds, seed=seed, only=[y, *x], progress=progress)
    target = known[chosen(known, y, [UNIT, CELL])[0]]
    names = chosen(known, x, [UNIT, CELL] if target.dims == CELL else [UNIT])
    if not names or len(set(names)) < len(names) or y in names:
        raise UnitlabError(f"x is {names}; expected one attribute or more, each once, and not y ({y!r}) itself")
    columns = [xr.broadcast(known[name], target)[0].transpose(*target.dims).values.astype(float).ravel() for name in names]
    table = np.stack([target.values.astype(float).ravel(), *columns], 1)
    clusters = [one.ravel() for one in np.indices(target.shape)]
    complete = np.isfinite(table).all(1)
    table, clusters = table[complete], [one[complete] for one in clusters]
    unit = clusters[0]
    n_units = len(np.unique(unit))
    without = [name for name in [y, *names] if not np.isfinite(known[name].values.astype(float)).any()]
    if without:
        raise UnitlabError(f"{', '.join(map(repr, without))} is undefined for every unit of this layer; leave it out")
    if isinstance(folds, bool) or not isinstance(folds, int | np.integer) or not 2 <= folds <= max(n_units, 2):
        raise UnitlabError(f"folds is {folds!r}; expected a whole number from 2 to the number of units with values, {n_units}")
    if n_units < len(names) + 3:
        raise UnitlabError(f"{n_units} units have all of {', '.join([y, *names])}; at least {len(names) + 3} are needed")
    fold = _folds(unit, folds, np.random.default_rng(seed))
    standard = (table - table.mean(0)) / np.where(table.std(0) > 0, table.std(0), 1)
    target_values, attributes_ = standard[:, 0], standard[:, 1:]
    coefficient, low, high, residual = _fit(target_values, attributes_, clusters)
    places = range(len(names))
    columns_of_table = {
        "attribute": names,
        "coefficient": coefficient,
        "coefficient_low": low,
        "coefficient_high": high,
        "r2_alone": [_cross_validated(target_values, attributes_[:, [place]], fold) for place in places],
        "r2_without": [_cross_validated(target_values, np.delete(attributes_, place, 1), fold) for place in places],
    }
    found = pd.DataFrame(columns_of_table)
    found.attrs = {
        "y": y,
        "r2": _cross_validated(target_values, attributes_, fold),
        "r2_in_sample": 1 - float((residual**2).sum() / max(float((target_values**2).sum()), 1e-300)),
        "n_rows": len(table),
        "n_units": n_units,
        "folds": int(folds),
        "covers": "units and classes" if len(clusters) == 2 else "units",
        "study": ds.attrs.get("name", ""),
        "layer": ds.attrs.get("layer", ""),
    }
    return found


def _folds(unit: Array, folds: int, random: np.random.Generator) -> Array:
    """Fold of every row; a unit is in one fold."""
    units = np.unique(unit)
    part = np.arange(len(units)) % folds
    return random.permutation(part)[np.searchsorted(units, unit)]


def _with_constant(x: Array) -> Array:
    return np.column_stack([np.ones(len(x)), x])


def _fit(y: Array, x: Array, clusters: Sequence[Array]) -> tuple[Array, Array, Array, Array]:
    """Coefficients with 95 % limits from errors clustered by unit or by unit and class (CR1), and residuals.

    Two ways: the variance by unit plus that by class minus that by cell, and no less than either of the first two.
    """
    design = _with_constant(x)
    coefficient = np.linalg.lstsq(design, y, rcond=None)[0]
    residual = y - design @ coefficient
    scores, inverse = design * residual[:, None], np.linalg.pinv(design.T @ design)
    variances = [np.diag(inverse @ _clustered(scores, one) @ inverse) for one in clusters]
    if len(clusters) == 2:
        by_cell = np.diag(inverse @ _clustered(scores, np.arange(len(y))) @ inverse)
        variances.append(variances[0] + variances[1] - by_cell)
    least = min(len(np.unique(one)) for one in clusters)
    half = student_quantile(1 - ALPHA / 2, least - 1) * np.sqrt(np.max(variances, axis=0))
    return coefficient[1:], (coefficient - half)[1:], (coefficient + half)[1:], residual


def _clustered(scores: Array, cluster: Array) -> Array:
    """Sum over clusters of the outer products of their scores, with the correction for few clusters."""
    groups = np.unique(cluster, return_inverse=True)[1]
    n_groups, (n, width) = int(groups.max()) + 1, scores.shape
    sums = np.zeros((n_groups, width))
    np.add.at(sums, groups, scores)
    return sums.T @ sums * (n_groups / max(n_groups - 1, 1) * (n - 1) / max(n - width, 1))


def _cross_validated(y: Array, x: Array, fold: Array) -> float:
    """1 − SSE/SST over held-out rows, SST about the mean of the training rows."""
    error = total = 0.0
    for one in np.unique(fold):
        held = fold == one
        fit = np.linalg.lstsq(_with_constant(x[~held]), y[~held], rcond=None)[0]
        error += float(((y[held] - _with_constant(x[held]) @ fit) ** 2).sum())
        total += float(((y[held] - y[~held].mean()) ** 2).sum())
    return 1 - error / total if total > 0 else float("nan")
