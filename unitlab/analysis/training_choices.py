"""The bundled comparison of training choices, one small network with and without batch norm and dropout, several seeds, and
statistics over its seeds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from unitlab.analysis import LEVEL
from unitlab.analysis.comparisons.bundled_results import read_results, write_results
from unitlab.analysis.correlations import measures
from unitlab.analysis.paired_tests import student_quantile
from unitlab.analysis.requirements import check_level
from unitlab.errors import UnitlabError, nearest_names
from unitlab.schema import TRAINING_VARIABLES

Array = np.ndarray[Any, Any]

CHOICES = ("batch_norm", "dropout")
# arm: (batch norm, dropout)
ARMS = {"plain": (False, False), "batch norm": (True, False), "dropout": (False, True), "both": (True, True)}


def training_choices(path: str | Path | None = None) -> xr.Dataset:
    """What silencing single units does to networks that differ in batch norm and dropout alone.

    Four arms of one architecture, five seeds each, trained on Fashion-MNIST by data/rebuild/training_choices.py and
    measured on its test images, at the last convolution after its ReLU. Needs no torch.

    Parameters
    ----------
    path
        A file that the script wrote; default the bundled one.

    Returns
    -------
    xarray.Dataset
        Over ``arm``, ``seed``, ``unit``, ``category``, in memory. Per unit what `unitlab.damage` and
        `unitlab.attributes` give (``overall_drop``, ``max_class_drop_crossfit``, ``class_selectivity`` …, as shares of 1);
        ``accuracy_drop(arm, seed, unit, category)``; per network ``test_accuracy``, ``train_accuracy``, ``live_units``,
        ``weights_sha256``. Attributes say how the networks were trained.

    Raises
    ------
    UnitlabError
        The file is missing, damaged, or holds something else.

    Examples
    --------
    >>> import unitlab
    >>> ds = unitlab.training_choices()
    >>> ds.test_accuracy.dims
    ('arm', 'seed')
    """
    return read_results(path, "training_choices/fashion.zarr.zip", TRAINING_VARIABLES, "data/rebuild/training_choices.py")


def over_live_units(ds: xr.Dataset, name: str) -> xr.DataArray:
    """Mean over each network's live units of a variable over ``arm, seed, unit``.

    Parameters
    ----------
    ds
        What `training_choices` gives.
    name
        One of its variables, for example ``"max_class_drop_crossfit"``.

    Returns
    -------
    xarray.DataArray
        Over ``arm, seed``, in the variable's unit and with its attributes.

    Raises
    ------
    UnitlabError
        No such variable over units (the nearest names are suggested).

    Examples
    --------
    >>> import unitlab
    >>> from unitlab.analysis.training_choices import over_live_units
    >>> over_live_units(unitlab.training_choices(), "overall_drop").dims
    ('arm', 'seed')
    """
    valid = [str(one) for one, values in ds.data_vars.items() if values.dims == ("arm", "seed", "unit")]
    if name not in valid:
        raise UnitlabError(f"the comparison has no variable {name!r} over units. {nearest_names(name, valid)}")
    return ds[name].where(ds["fraction_active"] > 0).mean("unit", keep_attrs=True)


def student_t_interval(values: xr.DataArray, dim: str = "seed", *, level: float = LEVEL) -> xr.Dataset:
    """Mean over seeds with Student's t interval: mean ± t((1 + level)/2, n − 1) · s/√n.

    Parameters
    ----------
    values
        Any array with the dimension ``dim``, one value a seed; NaN is left out.
    dim
        The dimension whose entries are independent repetitions.
    level
        Coverage of the interval, between 0 and 1.

    Returns
    -------
    xarray.Dataset
        ``mean``, ``low``, ``high`` in the unit of ``values`` and ``n`` over the other dimensions; ``low`` and ``high`` are
        NaN where fewer than two values are there. The attributes ``level`` and ``covers``: which sampling the interval covers,
        such as "seeds"; images are those that were measured.

    Raises
    ------
    UnitlabError
        No such dimension, or a level outside 0 to 1.

    Examples
    --------
    >>> import xarray as xr
    >>> from unitlab.analysis.training_choices import student_t_interval
    >>> found = student_t_interval(xr.DataArray([1.0, 2.0, 3.0], dims="seed"))
    >>> round(float(found.low), 2), round(float(found.high), 2)
    (-0.48, 4.48)
    """
    if dim not in values.dims:
        raise UnitlabError(f"the values have no dimension '{dim}'; theirs are {values.dims}")
    check_level(level)
    values = values.astype(float)
    n = values.count(dim)
    mean = values.fillna(0).sum(dim) / n.where(n > 0)
    two = n.where(n > 1)
    spread = np.sqrt(((values - mean) ** 2).fillna(0).sum(dim) / (two - 1))
    half = xr.zeros_like(mean) + student_quantile((1 + level) / 2, two - 1) * spread / np.sqrt(two)
    covered = {"seed": "seeds", "unit": "units", "image": "images", "basis": "bases"}.get(dim, dim)
    limits = {"mean": mean, "low": mean - half, "high": mean + half, "n": n}
    return xr.Dataset(limits, attrs={"level": level, "covers": covered})


def effects(values: xr.DataArray) -> xr.DataArray:
    """What each training choice changes, seed by seed: with minus without, mean over the arms of the other choice.

    Parameters
    ----------
    values
        Over ``arm`` (with the coordinates ``batch_norm`` and ``dropout``) and anything else.

    Returns
    -------
    xarray.DataArray
        Over ``choice`` ("batch norm", "dropout", "batch norm × dropout") and the other dimensions. The third is the
        interaction: the effect of batch norm with dropout minus its effect without.

    Raises
    ------
    UnitlabError
        The arms are not the four combinations of the two choices.

    Examples
    --------
    >>> import unitlab
    >>> from unitlab.analysis.training_choices import effects
    >>> effects(unitlab.training_choices().test_accuracy).dims
    ('choice', 'seed')
    """
    if "arm" not in values.dims or any(choice not in values.coords for choice in CHOICES):
        raise UnitlabError(
            f"the values need the dimension 'arm' with the coordinates {', '.join(CHOICES)}; theirs: {values.dims}"
        )
    combinations = list(zip(*(values[choice].values.astype(bool).tolist() for choice in CHOICES), strict=True))
    if len(combinations) != 4 or len(set(combinations)) != 4:
        raise UnitlabError(f"the arms are to be the four combinations of batch norm and dropout; given: {combinations}")
    arm = {combination: values.isel(arm=place, drop=True) for place, combination in enumerate(combinations)}
    found = [
        (arm[True, False] + arm[True, True] - arm[False, False] - arm[False, True]) / 2,
        (arm[False, True] + arm[True, True] - arm[False, False] - arm[True, False]) / 2,
        (arm[True, True] - arm[False, True]) - (arm[True, False] - arm[False, False]),
    ]
    choice = xr.DataArray(["batch norm", "dropout", "batch norm × dropout"], dims="choice")
    return xr.concat(found, dim="choice").assign_coords(choice=choice)


def training_effects(ds: xr.Dataset, name: str, *, level: float = LEVEL) -> xr.Dataset:
    """What each training choice changes in a measure of the networks: mean over seeds with its Student-t interval.

    Parameters
    ----------
    ds
        What `unitlab.training_choices` gives.
    name
        A variable of it over ``arm, seed, unit``, of which the mean over each network's live units is taken, or over
        ``arm, seed``.
    level
        Coverage of the interval, between 0 and 1.

    Returns
    -------
    xarray.Dataset
        ``mean``, ``low``, ``high``, ``n`` over ``choice`` ("batch norm", "dropout", "batch norm × dropout"): with minus
        without, seed by seed, mean over the arms of the other choice; the third is the interaction. In the variable's unit,
        shares of 1 for drops. The attribute ``covers`` says what the interval covers: seeds, measured on these images.

    Raises
    ------
    UnitlabError
        Another dataset, or no such variable (the nearest names are suggested).

    Examples
    --------
    >>> import unitlab
    >>> found = unitlab.training_effects(unitlab.training_choices(), "overall_drop")
    >>> found.choice.values.tolist()
    ['batch norm', 'dropout', 'batch norm × dropout']
    """
    if not isinstance(ds, xr.Dataset) or "arm" not in ds.dims or "fraction_active" not in ds:
        raise UnitlabError("training_effects takes the comparison that unitlab.training_choices() gives")
    of_networks = name in ds.data_vars and ds[name].dims == ("arm", "seed")
    return student_t_interval(effects(ds[name] if of_networks else over_live_units(ds, name)), level=level)


def write_training_choices(
    path: Path,
    studies: Mapping[tuple[str, int], xr.Dataset],
    train_accuracy: Mapping[tuple[str, int], float],
    attrs: dict[str, Any],
) -> None:
    """Measure the studies of all arms and seeds, (arm, seed) → study, and write what `training_choices` reads."""
    seeds = sorted({seed for _, seed in studies})
    found = {key: measures(studies[key]) for key in ((arm, seed) for arm in ARMS for seed in seeds)}
    of_network = {
        "test_accuracy": {key: (ds.label == ds.baseline_prediction).mean().item() for key, ds in studies.items()},
        "train_accuracy": train_accuracy,
        "live_units": {key: int((one.fraction_active > 0).sum()) for key, one in found.items()},
        "weights_sha256": {key: str(ds.attrs["fingerprint_weights"]) for key, ds in studies.items()},
    }
    some = next(iter(found.values()))
    values: dict[str, Array] = {
        "arm": np.array(list(ARMS)),
        "seed": np.array(seeds),
        "batch_norm": np.array([one for one, _ in ARMS.values()]),
        "dropout": np.array([one for _, one in ARMS.values()]),
    }
    for name, row in TRAINING_VARIABLES.items():
        if name in values:
            continue
        if "arm" in row.dims:
            of = of_network[name] if name in of_network else {key: one[name].values for key, one in found.items()}
            values[name] = np.stack([np.stack([of[arm, seed] for seed in seeds]) for arm in ARMS])
        else:
            values[name] = some[name].values
    write_results(path, TRAINING_VARIABLES, values, attrs)
