"""False discoveries controlled over the cells of several layers at once."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any

import numpy as np
import xarray as xr

from unitlab.analysis import ALPHA, LEVEL
from unitlab.analysis.damage import damage, tested_cells
from unitlab.analysis.paired_images import PairedImages
from unitlab.analysis.paired_tests import benjamini_hochberg, discrete_benjamini_hochberg
from unitlab.errors import UnitlabError

Array = np.ndarray[Any, Any]


def damage_across_layers(
    studies: Mapping[str, xr.Dataset], *, level: float = LEVEL, seed: int = 0, progress: bool = True
) -> dict[str, xr.Dataset]:
    """`unitlab.damage` of several layers whose cells are one family of tests.

    Who looks for damage in many layers and adjusts each alone promises of each that few of its discoveries are false, not of
    all that are found: layers in which there is little add nearly only false ones.

    Parameters
    ----------
    studies
        Layer (or any name) → its study.
    level, seed, progress
        As for `unitlab.damage`.

    Returns
    -------
    dict of str to xarray.Dataset
        What `unitlab.damage` gives of each, with ``q_value``, ``margin_q_value`` and ``margin_specific_q_value`` adjusted over
        the cells of all, and ``damaged`` and ``n_damaged`` by that ``q_value``. The attribute ``q_over`` names the studies.
        ``p_any``, ``p_specific`` and the other p of units are as they were: adjust those of all layers together, too.

    Raises
    ------
    UnitlabError
        No study, or what `unitlab.damage` refuses.

    Notes
    -----
    The adjustment is that of each layer, over more tests: Döhler, Durand and Roquain (2018), step-down; Benjamini and
    Hochberg (1995) for margins. It is proven for independent tests.

    Examples
    --------
    >>> import unitlab
    >>> layers = {name: unitlab.load(name) for name in ("vgg_fashion", "alexnet_fashion")}
    >>> found = unitlab.damage_across_layers(layers, progress=False)
    >>> list(found)
    ['vgg_fashion', 'alexnet_fashion']
    """
    if not isinstance(studies, Mapping) or not studies:
        raise UnitlabError("damage_across_layers takes a dict, layer → study, such as {'conv4_3': a, 'conv5_3': b}")
    found = {name: damage(ds, level=level, seed=seed, progress=progress) for name, ds in studies.items()}
    cells = [
        tested_cells(PairedImages(studies[name], "damage"), one.n_broken.values, one.n_fixed.values)
        for name, one in found.items()
    ]
    p = [one.p_value.values for one in found.values()]
    attainable = chain.from_iterable(one.attainable(np.isfinite(of)) for one, of in zip(cells, p, strict=True))
    adjusted = {"q_value": _apart(discrete_benjamini_hochberg(_joined(p), attainable), p)}
    for name in ("margin", "margin_specific"):
        p = [one[f"{name}_p_value"].values for one in found.values()]
        adjusted[f"{name}_q_value"] = _apart(benjamini_hochberg(_joined(p)), p)
    for place, (name, one) in enumerate(found.items()):
        values = {q: of_layers[place] for q, of_layers in adjusted.items()}
        values["damaged"] = (values["q_value"] <= ALPHA) & (one.accuracy_drop.values > 0)
        values["n_damaged"] = values["damaged"].sum(1).astype(np.int32)
        changed = {q: one[q].copy(data=of) for q, of in values.items()}
        found[name] = one.assign(changed).assign_attrs(q_over=", ".join(found))
    return found


def _joined(parts: list[Array]) -> Array:
    return np.concatenate([part.ravel() for part in parts])


def _apart(joined: Array, like: list[Array]) -> list[Array]:
    edges = np.cumsum([part.size for part in like])[:-1]
    return [part.reshape(of.shape) for part, of in zip(np.split(joined, edges), like, strict=True)]
