"""The bundled comparison of training choices, one small network with and without batch norm and dropout, several seeds, and
statistics over its seeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from unitlab.analysis import LEVEL
from unitlab.analysis.comparisons.bundled_results import read_results, write_results
from unitlab.analysis.correlations import QUICK, measures
from unitlab.analysis.paired_tests import student_quantile
from unitlab.analysis.requirements import check_level
from unitlab.errors import UnitlabError, nearest_names
from unitlab.schema import MEMORISING_VARIABLES, SEED_PARTNER_VARIABLES, TRAINING_VARIABLES, Variable

Array = np.ndarray[Any, Any]

CHOICES = ("batch_norm", "dropout")
# arm: (batch norm, what dropout drops of the maps of the layer that is measured)
ARMS = {
    "plain": (False, "none"), "batch norm": (True, "none"), "dropout": (False, "positions"), "both": (True, "positions"),
    "channel dropout": (False, "channels"),
}  # fmt: skip


# arm: share of the training labels that are random
MEMORISING_ARMS = {"0 % random": 0.0, "20 % random": 0.2, "50 % random": 0.5, "100 % random": 1.0}
# table, and the script of data/rebuild that wrote the file
BUNDLED = {
    "fashion": (TRAINING_VARIABLES, "training_choices"), "emoji": (TRAINING_VARIABLES, "training_choices"),
    "memorising": (MEMORISING_VARIABLES, "memorising"), "partners": (SEED_PARTNER_VARIABLES, "training_choices"),
}  # fmt: skip


def training_choices(of: str | Path = "fashion") -> xr.Dataset:
    """What silencing single units does to networks that differ in how they were trained alone.

    "fashion" and "emoji": with and without batch norm, dropout of positions, dropout of channels, on two data sets, all
    trained to the same accuracy on validation images, each arm at its best learning rate. "memorising": a share of the
    training labels is random, and the network is trained until it knows them all (Zhang et al. 2017; Morcos et al. 2018).
    Measured at the last convolution after its ReLU, several seeds each. "partners": which units of two of the networks of
    "fashion", alike but for their seed, answer to the same images, and whether they damage the same classes (`unitlab.match`
    of each pair of seeds). Trained by data/rebuild. Needs no torch.

    Parameters
    ----------
    of
        "fashion", "emoji", "memorising" or "partners"; or the path of a file that data/rebuild/training_choices.py wrote.

    Returns
    -------
    xarray.Dataset
        Over ``arm``, ``seed``, ``unit``, ``category``, in memory. Per unit what `unitlab.damage` and
        `unitlab.attributes` give (``overall_drop``, ``max_class_drop_crossfit``, ``class_selectivity`` …, as shares of 1);
        ``accuracy_drop(arm, seed, unit, category)``; per network ``test_accuracy``, ``train_accuracy``, ``live_units``,
        ``weights_sha256`` … For "memorising" also over ``measured_on``, training or test images, which is chosen with
        ``.sel(measured_on="training images")``; ``accuracy`` over ``k`` silenced units, its ``curve_area`` and
        ``relative_area``. For "partners" over ``arm`` and ``pair`` (of ``seed_a`` and ``seed_b``) alone. Attributes say how the
        networks were trained.

    Raises
    ------
    UnitlabError
        The file is missing, damaged, or holds something else.

    References
    ----------
    Zhang, Bengio, Hardt, Recht, Vinyals (2017), Understanding deep learning requires rethinking generalization,
    arXiv 1611.03530. Morcos, Barrett, Rabinowitz, Botvinick (2018), On the importance of single directions for
    generalization, arXiv 1803.06959.

    Examples
    --------
    >>> import unitlab
    >>> unitlab.training_choices().test_accuracy.dims
    ('arm', 'seed')
    >>> unitlab.training_choices("memorising").curve_area.dims
    ('arm', 'seed', 'measured_on')
    """
    table, script = BUNDLED.get(str(of), BUNDLED["fashion"])
    path, name = (None, f"training_choices/{of}.zarr.zip") if of in BUNDLED else (of, "")
    return read_results(path, name, table, f"data/rebuild/{script}.py")


def over_live_units(ds: xr.Dataset, name: str) -> xr.DataArray:
    """Mean over each network's live units of a variable over ``arm, seed, unit``.

    Parameters
    ----------
    ds
        What `training_choices` gives; of "memorising" with ``measured_on`` chosen.
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
    >>> from unitlab.analysis.comparisons.training_choices import over_live_units
    >>> over_live_units(unitlab.training_choices(), "overall_drop").dims
    ('arm', 'seed')
    """
    return _of_live_units(ds, name).mean("unit", keep_attrs=True)


def per_removed_energy(ds: xr.Dataset, name: str) -> xr.DataArray:
    """A drop for what is removed: its sum over each network's live units, by the sum of ``removed_energy``.

    Networks with fewer live units, or with more of their energy in each, remove more with one unit.

    Parameters
    ----------
    ds, name
        As for `over_live_units`; a drop.

    Returns
    -------
    xarray.DataArray
        Over ``arm, seed``: drop for the whole layer's energy, so a hundredth of it for every percent.

    Raises
    ------
    UnitlabError
        No such variable over units (the nearest names are suggested).

    Examples
    --------
    >>> import unitlab
    >>> from unitlab.analysis.comparisons.training_choices import per_removed_energy
    >>> per_removed_energy(unitlab.training_choices(), "overall_drop").dims
    ('arm', 'seed')
    """
    drop, energy = (_of_live_units(ds, one).sum("unit") for one in (name, "removed_energy"))
    return drop / energy


def _of_live_units(ds: xr.Dataset, name: str) -> xr.DataArray:
    if "measured_on" in ds.dims:
        raise UnitlabError(f"choose the images first: ds.sel(measured_on=…), one of {ds['measured_on'].values.tolist()}")
    valid = [str(one) for one, values in ds.data_vars.items() if values.dims == ("arm", "seed", "unit")]
    if name not in valid:
        raise UnitlabError(f"the comparison has no variable {name!r} over units. {nearest_names(name, valid)}")
    return ds[name].where(ds["fraction_active"] > 0)


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
    >>> from unitlab.analysis.comparisons.training_choices import student_t_interval
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
        Over ``choice`` and the other dimensions: "batch norm", "dropout" (of positions), their interaction "batch norm ×
        dropout" (the effect of batch norm with dropout minus its effect without), and "channel dropout", against neither.

    Raises
    ------
    UnitlabError
        One of the five arms is missing, or two are alike.

    Examples
    --------
    >>> import unitlab
    >>> from unitlab.analysis.comparisons.training_choices import effects
    >>> effects(unitlab.training_choices().test_accuracy).dims
    ('choice', 'seed')
    """
    if "arm" not in values.dims or any(choice not in values.coords for choice in CHOICES):
        raise UnitlabError(
            f"the values need the dimension 'arm' with the coordinates {', '.join(CHOICES)}; theirs: {values.dims}"
        )
    given = list(zip(*(values[choice].values.tolist() for choice in CHOICES), strict=True))
    if sorted(given) != sorted(ARMS.values()):
        raise UnitlabError(f"the arms are to be, by batch norm and dropout, {list(ARMS.values())}; given: {given}")
    plain, norm, dropout, both, channels = (values.isel(arm=given.index(one), drop=True) for one in ARMS.values())
    found = {
        "batch norm": (norm + both - plain - dropout) / 2,
        "dropout": (dropout + both - plain - norm) / 2,
        "batch norm × dropout": (both - dropout) - (norm - plain),
        "channel dropout": channels - plain,
    }
    return xr.concat(found.values(), dim="choice").assign_coords(choice=list(found))


def training_effects(ds: xr.Dataset, name: str, *, per_energy: bool = False, level: float = LEVEL) -> xr.Dataset:
    """What each training choice changes in a measure of the networks: mean over seeds with its Student-t interval.

    Parameters
    ----------
    ds
        What `unitlab.training_choices` gives; of "memorising" with ``measured_on`` chosen.
    name
        A variable of it over ``arm, seed, unit``, of which the mean over each network's live units is taken, or over
        ``arm, seed``.
    per_energy
        A drop for what is removed: its sum over the live units by the share of the layer's energy (sum of squares) that goes
        with them. Networks with fewer live units, or more of their energy in these, remove more with each.
    level
        Coverage of the interval, between 0 and 1.

    Returns
    -------
    xarray.Dataset
        ``mean``, ``low``, ``high``, ``n`` over ``choice``: with minus without, seed by seed. "batch norm" and "dropout" (of
        positions): mean over the arms of the other; "batch norm × dropout": their interaction; "channel dropout": against
        neither. Of "memorising": each share of random labels against none. ``without``: the mean of the networks with
        neither. In the variable's unit, shares of 1 for drops. The attribute ``covers`` says what the interval covers: seeds,
        measured on these images.

    Raises
    ------
    UnitlabError
        Another dataset, or no such variable (the nearest names are suggested).

    Examples
    --------
    >>> import unitlab
    >>> found = unitlab.training_effects(unitlab.training_choices(), "overall_drop")
    >>> found.choice.values.tolist()
    ['batch norm', 'dropout', 'batch norm × dropout', 'channel dropout']
    """
    if not isinstance(ds, xr.Dataset) or "arm" not in ds.dims or "fraction_active" not in ds:
        raise UnitlabError("training_effects takes the comparison that unitlab.training_choices() gives")
    values = per_removed_energy(ds, name) if per_energy else _of_networks(ds, name)
    found = _of_random_labels(values) if "random_labels" in ds.coords else effects(values)
    return student_t_interval(found, level=level).assign(without=values.isel(arm=0, drop=True).mean("seed"))


def _of_networks(ds: xr.Dataset, name: str) -> xr.DataArray:
    return ds[name] if name in ds.data_vars and ds[name].dims == ("arm", "seed") else over_live_units(ds, name)


def _of_random_labels(values: xr.DataArray) -> xr.DataArray:
    """With random labels minus without, over ``choice``."""
    found = (values - values.isel(arm=0, drop=True)).isel(arm=slice(1, None))
    return found.rename(arm="choice").drop_vars("random_labels")


def write_training_choices(
    path: Path,
    studies: Mapping[tuple[str, int], xr.Dataset],
    records: Mapping[tuple[str, int], Mapping[str, float]],
    attrs: dict[str, Any],
) -> None:
    """Measure the studies of all arms and seeds, (arm, seed) → study, and write what `training_choices` reads.

    ``records`` tells of each network what its study does not: accuracies on other images, steps, learning rate.
    """
    seeds = sorted({seed for _, seed in studies})
    values: dict[str, Array] = {
        "batch_norm": np.array([one for one, _ in ARMS.values()]),
        "dropout": np.array([one for _, one in ARMS.values()]),
        "learning_rate": np.array([records[arm, seeds[0]]["learning_rate"] for arm in ARMS]),
    }
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for key, ds in studies.items():
        one = measures(ds).assign(removed_energy=ds["removed_energy"])
        found[key] = {str(name): np.asarray(variable.values) for name, variable in one.variables.items()} | {
            **records[key],
            "test_accuracy": (ds.label == ds.baseline_prediction).values.mean(),
            "live_units": int((one.fraction_active > 0).sum()),
            "weights_sha256": str(ds.attrs["fingerprint_weights"]),
        }
    write_results(path, TRAINING_VARIABLES, _stacked(TRAINING_VARIABLES, found, ARMS, seeds) | values, attrs)


def memorising_measures(study: xr.Dataset, curve: xr.Dataset) -> dict[str, Array]:
    """What is kept of a network on one set of images: its study, and its `unitlab.cumulative` curve in random orders."""
    found = measures(study, only=[*QUICK, "class_selectivity", "mutual_information"])
    found = found.assign(removed_energy=study["removed_energy"])
    accuracy = curve["accuracy"].mean("order").values
    area = np.trapezoid(accuracy, curve["k"].values / study.sizes["unit"])
    more = {"k": curve["k"].values, "accuracy": accuracy, "curve_area": area, "relative_area": area / accuracy[0]}
    return {str(name): np.asarray(variable.values) for name, variable in found.variables.items()} | more


def write_memorising(
    path: Path,
    measured: Mapping[tuple[str, int], Mapping[str, Mapping[str, Array]]],
    records: Mapping[tuple[str, int], Mapping[str, Any]],
    attrs: dict[str, Any],
) -> None:
    """Write what `training_choices` reads as "memorising": (arm, seed) → images → what `memorising_measures` gave."""
    seeds = sorted({seed for _, seed in measured})
    images = ["training images", "test images"]
    found = {
        key: {
            name: np.stack([of[one][name] for one in images]) if "measured_on" in row.dims else of[images[0]].get(name)
            for name, row in MEMORISING_VARIABLES.items()
            if name in of[images[0]]
        }
        | dict(records[key])
        for key, of in measured.items()
    }
    values = {"random_labels": np.array(list(MEMORISING_ARMS.values())), "measured_on": np.array(images)}
    write_results(path, MEMORISING_VARIABLES, _stacked(MEMORISING_VARIABLES, found, MEMORISING_ARMS, seeds) | values, attrs)


def _stacked(
    table: Mapping[str, Variable], found: Mapping[tuple[str, int], Mapping[str, Any]], arms: Iterable[str], seeds: list[int]
) -> dict[str, Array]:
    """The variables of ``table`` that are ``found`` of each network, those over arms and seeds as one array."""
    some = next(iter(found.values()))
    values = {"arm": np.array(list(arms)), "seed": np.array(seeds)}
    for name, row in table.items():
        if name in some and name not in values:
            of_networks = np.stack([np.stack([found[arm, seed][name] for seed in seeds]) for arm in values["arm"].tolist()])
            values[name] = of_networks if row.dims[:2] == ("arm", "seed") else np.asarray(some[name])
    return values
