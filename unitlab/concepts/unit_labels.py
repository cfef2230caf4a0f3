"""Names of units: from the concept that each answers to best, from other programs' tables, or from one's own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from unitlab.analysis.requirements import require
from unitlab.errors import UnitlabError, nearest_names, what_it_says
from unitlab.schema import variable_attrs

Array = np.ndarray[Any, Any]

IOU_SOURCE = "IoU, Network Dissection {}"


def labelled(ds: xr.Dataset, names: xr.Dataset | pd.DataFrame | Mapping[int, str], *, source: str | None = None) -> xr.Dataset:
    """A study whose units have names.

    Parameters
    ----------
    ds
        A study, as `unitlab.load` or `unitlab.ablate` give it.
    names
        What `unitlab.align` gives (each unit has the name of its best concept), what `unitlab.dissect` gives (the concept that
        it detects by more than chance), what `read_netdissect` or `read_clip_dissect` give, a table of one's own with the
        unit's number, counted from 0, as its index, the column ``label`` and, if need be,
        ``score`` and ``source``; or a mapping or series, unit → name.
    source
        Where the names are from, in place of what the table says.

    Returns
    -------
    xarray.Dataset
        ``ds`` with the coordinates ``unit_label``, ``unit_label_score``, ``unit_label_source`` over ``unit``; a unit without a
        name has an empty one, and a score that is not known is NaN.

    Raises
    ------
    UnitlabError
        No names, a table without ``label`` or with a unit twice, a unit that the layer has not, a score that is no number; what
        `unitlab.align` or `unitlab.dissect` gave for another network or layer.

    Examples
    --------
    >>> import unitlab
    >>> ds = unitlab.load("vgg_fashion")
    >>> named = unitlab.concepts.labelled(ds, {3: "straps"}, source="looked at")
    >>> named.unit_label.sel(unit=3).item(), named.unit_label_source.sel(unit=3).item()
    ('straps', 'looked at')
    """
    require(ds, ["unit"], "labelled")
    if isinstance(names, xr.Dataset):
        _refuse_another(ds, names)
    table = _table(names)
    _check(ds, table)
    place = table.index.get_indexer(ds["unit"].values)
    known = place >= 0
    label = np.where(known, table["label"].to_numpy(object)[place], "") if len(table) else np.full(len(place), "", object)
    score, told = np.full(len(place), np.nan), np.full(len(place), source or "", dtype=object)
    if "score" in table:
        score[known] = table["score"].to_numpy(float)[place[known]]
    if source is None and "source" in table:
        told[known] = table["source"].astype(str).to_numpy(object)[place[known]]
    named = label != ""
    values = {
        "unit_label": label.astype(object),
        "unit_label_score": np.where(named, score, np.nan),
        "unit_label_source": np.where(named, told, "").astype(object),
    }
    return ds.assign_coords({name: ("unit", value, variable_attrs(name)) for name, value in values.items()})


def read_netdissect(path: str | Path) -> pd.DataFrame:
    """Names of units in a ``*-result.csv`` of Network Dissection, whose units count from 1 and here from 0.

    Returns
    -------
    pandas.DataFrame
        Index ``unit``; ``label``, ``score`` (IoU), ``category``, ``source``.

    Raises
    ------
    UnitlabError
        No such file, or one of another kind.

    Examples
    --------
    >>> from pathlib import Path
    >>> from unitlab import concepts
    >>> _ = Path("conv5-result.csv").write_text("unit,category,label,score\\n1,object,snow,0.21\\n")
    >>> concepts.read_netdissect("conv5-result.csv").label.to_dict()
    {0: 'snow'}
    """
    table = _read(path, {"unit", "category", "label", "score"}, "a *-result.csv of Network Dissection")
    units = _whole(table["unit"], path)
    if len(units) and units.min() < 1:
        raise UnitlabError(
            f"{path} counts units from {units.min()}; Network Dissection counts them from 1. Read it with pandas"
        )
    return _named(units - 1, table["label"], table["score"], "Network Dissection", category=table["category"].fillna(""))


def read_clip_dissect(path: str | Path, layer: str | None = None) -> pd.DataFrame:
    """Names of units in the ``descriptions.csv`` of CLIP-Dissect, whose units count from 0.

    Parameters
    ----------
    path
        The file.
    layer
        Which of its layers, where it has several.

    Returns
    -------
    pandas.DataFrame
        Index ``unit``; ``label``, ``score`` (similarity), ``source``.

    Raises
    ------
    UnitlabError
        No such file, one of another kind, or several layers of which none is chosen.

    Examples
    --------
    >>> from pathlib import Path
    >>> from unitlab import concepts
    >>> _ = Path("descriptions.csv").write_text("layer,unit,description,similarity\\nlayer4,3,snow,0.31\\n")
    >>> concepts.read_clip_dissect("descriptions.csv").label.to_dict()
    {3: 'snow'}
    """
    table = _read(path, {"layer", "unit", "description", "similarity"}, "a descriptions.csv of CLIP-Dissect")
    layers = [str(one) for one in table["layer"].unique()]
    if layer is None and len(layers) > 1:
        raise UnitlabError(f"{path} has the layers {', '.join(layers)}; give one of them: layer={layers[-1]!r}")
    if layer is not None:
        if layer not in layers:
            raise UnitlabError(f"{path} has no layer {layer!r}. {nearest_names(layer, layers)}")
        table = table[table["layer"].astype(str) == layer]
    return _named(_whole(table["unit"], path), table["description"], table["similarity"], "CLIP-Dissect")


def _named(units: Array, label: pd.Series, score: pd.Series, source: str, **more: pd.Series) -> pd.DataFrame:
    found = pd.DataFrame({"label": label.fillna("").astype(str), "score": score, "source": source, **more})
    return found.set_axis(pd.Index(units, name="unit")).sort_index()


def _read(path: str | Path, columns: set[str], what: str) -> pd.DataFrame:
    try:
        table = pd.read_csv(path, keep_default_na=False, na_values={name: [""] for name in ("score", "similarity")})
    except (OSError, ValueError) as error:
        raise UnitlabError(f"{path} cannot be read as {what} ({what_it_says(error)})") from error
    if not columns <= set(table.columns):
        raise UnitlabError(f"{path} is not {what}: it lacks the column {sorted(columns - set(table.columns))[0]!r}")
    return table


def _whole(units: pd.Series, path: str | Path) -> Array:
    numbers = pd.to_numeric(units, errors="coerce")
    if numbers.isna().any() or (numbers != numbers.round()).any():
        raise UnitlabError(f"{path} has a unit that is no whole number; expected the number of a channel")
    return numbers.to_numpy(np.int64)


def _table(names: object) -> pd.DataFrame:
    """Index unit; ``label``, and perhaps ``score`` and ``source``."""
    if isinstance(names, xr.Dataset):
        if "best_iou_concept" in names:
            label = np.where(names["is_detector"].values, names["best_iou_concept"].values, "")
            found = {
                "label": label,
                "score": names["best_iou"].values,
                "source": IOU_SOURCE.format(names.attrs.get("procedure", "")),
            }
            return pd.DataFrame(found, index=names["unit"].values)
        if "best_concept" not in names:
            raise UnitlabError(
                "this dataset has no names; unitlab.align(ds, concepts) gives one with 'best_concept', and "
                "unitlab.dissect(model, images, layer, concepts) one with 'best_iou_concept'"
            )
        found = {"label": names["best_concept"].values, "score": names["best_concept_auc"].values}
        return pd.DataFrame({**found, "source": "area under the ROC curve"}, index=names["unit"].values)
    if isinstance(names, Mapping):
        names = pd.Series(dict(names), dtype=object)
    if isinstance(names, pd.Series):
        names = names.to_frame("label")
    if not isinstance(names, pd.DataFrame):
        raise UnitlabError(
            f"names are a table, a mapping unit → name, or what unitlab.align gives; given: {type(names).__name__}"
        )
    if "label" not in names:
        raise UnitlabError(f"the table has no column 'label'; it has {', '.join(map(str, names.columns)) or 'none'}")
    label = names["label"].astype(object).where(names["label"].notna(), "").astype(str)
    return names.assign(label=label)


def _refuse_another(ds: xr.Dataset, names: xr.Dataset) -> None:
    """Refuse names of another network's units, or another layer's."""
    for name, what in (("fingerprint_weights", "network"), ("site", "layer")):
        here, there = (one.attrs.get(name) for one in (ds, names))
        if None not in (here, there) and here != there:
            told = f": '{there}', and the study's is '{here}'" if name == "site" else ""
            raise UnitlabError(f"the names are of another {what}{told}; give those of the study's own units")


def _check(ds: xr.Dataset, table: pd.DataFrame) -> None:
    if len(table) and not pd.api.types.is_integer_dtype(table.index):
        raise UnitlabError(f"the index of the names holds units' numbers, counted from 0; it holds {table.index[0]!r}")
    if not table.index.is_unique:
        raise UnitlabError(f"unit {table.index[table.index.duplicated()][0]} has two names; give one a unit")
    channels = int(ds.attrs.get("channels", int(ds["unit"].max()) + 1))
    wrong = table.index[(table.index < 0) | (table.index >= channels)] if len(table) else []
    if len(wrong):
        raise UnitlabError(
            f"there is a name for unit {wrong[0]}, but the layer's units are 0 to {channels - 1}. Names of another layer, or "
            "units counted from 1? unitlab.concepts.read_netdissect counts them from 0"
        )
    if "score" in table and not pd.api.types.is_numeric_dtype(table["score"]):
        raise UnitlabError(f"the column 'score' holds {table['score'].iloc[0]!r}; expected numbers")
