"""The one table of every variable of a study: name, level, dimensions, dtype, unit and definition."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from unitlab.errors import UnitlabError

__all__ = ["SCHEMA_VERSION", "VARIABLES", "Variable", "check", "describe", "variable_attrs"]

SCHEMA_VERSION = 1

LEVELS = ("study", "layer", "ablation", "damage", "attributes")


@dataclass(frozen=True)
class Variable:
    """One variable: ``level`` says which group of a store holds it, or which function returns it."""

    name: str
    level: str
    dims: tuple[str, ...]
    kind: str  # numpy dtype kinds that are allowed: "i" integers, "f" floats, "u" bytes, "b" booleans, "T" text
    long_name: str
    units: str
    comment: str
    required: bool = True
    coordinate: bool = False


def _table() -> dict[str, Variable]:
    rows = [
        # study -------------------------------------------------------------------------------------------------
        Variable("category", "study", ("category",), "T", "class", "1", "Name of the class.", coordinate=True),
        Variable(
            "category_index",
            "study",
            ("category",),
            "i",
            "class index",
            "1",
            "Number that label and prediction use for the class.",
            coordinate=True,
        ),
        Variable("image", "study", ("image",), "T", "image", "1", "Id of the image.", coordinate=True),
        Variable("label", "study", ("image",), "i", "label", "class index", "Class that the image counts for."),
        Variable(
            "cluster",
            "study",
            ("image",),
            "i",
            "cluster",
            "1",
            "Images of one cluster belong together (drawings of one thing) and are not independent.",
            required=False,
        ),
        Variable(
            "baseline_prediction",
            "study",
            ("image",),
            "i",
            "baseline prediction",
            "class index",
            "Top-1 class of the unablated network.",
        ),
        Variable(
            "baseline_margin",
            "study",
            ("image",),
            "f",
            "baseline margin",
            "logit",
            "Logit of the label minus the largest other logit, unablated network.",
        ),
        Variable("n_images", "study", ("category",), "i", "images", "images", "Images of the class."),
        Variable(
            "baseline_accuracy",
            "study",
            ("category",),
            "f",
            "baseline class accuracy",
            "1",
            "Correct predictions for images of the class / images of the class, top-1, unablated network. "
            "NaN for a class without images.",
        ),
        Variable(
            "thumbnails",
            "study",
            ("image", "thumbnail_row", "thumbnail_column", "rgb"),
            "u",
            "thumbnails",
            "1",
            "The images, small, 8-bit RGB (or one grey channel).",
            required=False,
        ),
        # layer -------------------------------------------------------------------------------------------------
        Variable("unit", "layer", ("unit",), "i", "unit", "1", "Channel of the layer's output.", coordinate=True),
        Variable(
            "class_activation",
            "layer",
            ("unit", "category"),
            "f",
            "class activation",
            "activation",
            "Mean over the images of a class of the spatial mean of the unit's map. NaN for a class without images.",
        ),
        Variable(
            "activation_mean",
            "layer",
            ("unit", "image"),
            "f",
            "spatial mean activation",
            "activation",
            "Mean of the unit's map over its positions, kept to 8 significant bits.",
        ),
        Variable(
            "activation_max",
            "layer",
            ("unit", "image"),
            "f",
            "spatial max activation",
            "activation",
            "Maximum of the unit's map over its positions, kept to 8 significant bits.",
        ),
        Variable(
            "class_correlation",
            "layer",
            ("unit", "category"),
            "f",
            "class correlation",
            "1",
            "Pearson correlation over images between the unit's spatial max activation and the predicted "
            "probability (softmax) of the class (Zhou et al. 2018). NaN where either is constant.",
        ),
        Variable(
            "first_order_margin_drop",
            "layer",
            ("unit", "category"),
            "f",
            "first-order margin drop",
            "logit",
            "Mean over a class's images of the sum over positions of activation × d(label margin)/d(activation): "
            "the linear estimate of the margin lost to a zero ablation. NaN for a class without images.",
            required=False,
        ),
        Variable(
            "mean_activation",
            "layer",
            ("unit",),
            "f",
            "mean activation",
            "activation",
            "Mean over all images and positions.",
        ),
        Variable(
            "max_activation",
            "layer",
            ("unit",),
            "f",
            "maximum activation",
            "activation",
            "Maximum over all images and positions.",
        ),
        Variable(
            "fraction_active",
            "layer",
            ("unit",),
            "f",
            "fraction of images active",
            "1",
            "Share of the images on which the unit is above zero somewhere.",
        ),
        Variable(
            "l1_norm",
            "layer",
            ("unit",),
            "f",
            "L1 norm",
            "1",
            "Sum of |w| over the unit's own filter (Li et al. 2016). NaN where the site has no filter of its own.",
        ),
        Variable("l2_norm", "layer", ("unit",), "f", "L2 norm", "1", "Root of the sum of w² over the unit's own filter."),
        Variable(
            "l1_norm_folded",
            "layer",
            ("unit",),
            "f",
            "L1 norm, batch norm folded in",
            "1",
            "L1 norm of the filter times |γ/√(σ²+ε)| of the batch norm behind it; NaN without batch norm.",
        ),
        Variable(
            "l2_norm_folded",
            "layer",
            ("unit",),
            "f",
            "L2 norm, batch norm folded in",
            "1",
            "L2 norm of the filter times |γ/√(σ²+ε)| of the batch norm behind it; NaN without batch norm.",
        ),
        Variable(
            "batch_norm_scale",
            "layer",
            ("unit",),
            "f",
            "batch-norm scale",
            "1",
            "γ of the batch norm between the filter and the site; NaN without batch norm.",
        ),
        Variable(
            "top_image",
            "layer",
            ("unit", "top_rank"),
            "i",
            "top image",
            "1",
            "Positions (along image) of the images with the largest spatial max activation, descending; "
            "ties go to the earlier image; −1 where there are fewer images.",
        ),
        Variable(
            "top_activation",
            "layer",
            ("unit", "top_rank"),
            "f",
            "top activation",
            "activation",
            "Spatial max activation of the top images.",
        ),
        Variable(
            "top_map",
            "layer",
            ("unit", "top_rank", "row", "column"),
            "f",
            "activation map",
            "activation",
            "The unit's map on its top images.",
        ),
        # ablation ----------------------------------------------------------------------------------------------
        Variable(
            "prediction",
            "ablation",
            ("unit", "image"),
            "i",
            "prediction",
            "class index",
            "Top-1 class after the ablation of the unit.",
        ),
        Variable(
            "label_margin_drop",
            "ablation",
            ("unit", "image"),
            "f",
            "margin drop",
            "logit",
            "Drop of the margin (logit of the label minus the largest other logit); positive = damage. "
            "Kept in 16 bits; beyond ±65,504 it reads ±inf.",
        ),
        Variable(
            "n_broken",
            "ablation",
            ("unit", "category"),
            "i",
            "broken",
            "images",
            "Images of the class that were right before the ablation and are wrong after it.",
        ),
        Variable(
            "n_fixed",
            "ablation",
            ("unit", "category"),
            "i",
            "fixed",
            "images",
            "Images of the class that were wrong before the ablation and are right after it.",
        ),
        Variable(
            "n_predicted",
            "ablation",
            ("unit", "category"),
            "i",
            "predicted",
            "images",
            "Images of any class that are predicted as the class after the ablation.",
        ),
        Variable(
            "accuracy_drop",
            "ablation",
            ("unit", "category"),
            "f",
            "accuracy drop",
            "1",
            "Class accuracy before minus after, (n_broken − n_fixed)/n_images; positive = damage. "
            "NaN for a class without images.",
        ),
        Variable(
            "overall_drop",
            "ablation",
            ("unit",),
            "f",
            "overall drop",
            "1",
            "Accuracy over all images before minus after; positive = damage.",
        ),
    ]
    return {row.name: row for row in rows}


VARIABLES: dict[str, Variable] = _table()


def variable_attrs(name: str) -> dict[str, str]:
    """``long_name``, ``units`` and ``comment`` of a variable, as they go onto arrays."""
    row = VARIABLES[name]
    return {"long_name": row.long_name, "units": row.units, "comment": row.comment}


def describe(ds: xr.Dataset) -> xr.Dataset:
    """Copy of ``ds`` whose variables carry the attributes of this table (dimension names are not changed)."""
    out = ds.copy()
    for name in out.variables:
        if name in VARIABLES:
            out[name].attrs = {**variable_attrs(str(name)), **out[name].attrs}
    return out


def check(arrays: Mapping[str, Any], level: str, *, dims: Mapping[str, int], where: str) -> None:
    """Refuse arrays that are not what a group of this level holds.

    Parameters
    ----------
    arrays
        Name → anything with ``shape`` and ``dtype``.
    level
        ``"study"``, ``"layer"`` or ``"ablation"``.
    dims
        Dimension name → size, where known (it is extended as the arrays are read).
    where
        What is being checked, for the message.

    Raises
    ------
    UnitlabError
        A required variable is missing, a variable is unknown, or one has the wrong shape or dtype.
    """
    sizes = dict(dims)
    for row in VARIABLES.values():
        if row.level == level and row.required and row.name not in arrays:
            raise UnitlabError(f"{where} lacks the variable '{row.name}' ({row.comment})")
    for name, array in arrays.items():
        if name not in VARIABLES or (VARIABLES[name].level != level and not VARIABLES[name].coordinate):
            raise UnitlabError(f"{where} holds '{name}', which the schema does not know at the level '{level}'")
        row = VARIABLES[name]
        if len(array.shape) != len(row.dims):
            raise UnitlabError(f"{where}: '{name}' has shape {tuple(array.shape)}, expected {row.dims}")
        for dim, size in zip(row.dims, array.shape, strict=True):
            if sizes.setdefault(dim, int(size)) != size:
                raise UnitlabError(f"{where}: '{name}' has {size} along '{dim}', expected {sizes[dim]}")
        kind = np.dtype(array.dtype).kind
        if kind not in {"T": "TOU"}.get(row.kind, row.kind):
            raise UnitlabError(f"{where}: '{name}' has dtype {array.dtype}, expected kind '{row.kind}'")
