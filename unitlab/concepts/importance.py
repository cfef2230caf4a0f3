"""The classes that a unit is important to: by rank, as the paper has it, and by what is sure."""

from __future__ import annotations

import numpy as np
import scipy
import xarray as xr

from unitlab.analysis.damage import damage
from unitlab.analysis.requirements import require, require_all_pairs
from unitlab.errors import UnitlabError
from unitlab.schema import described_like

OF_DAMAGE = ("balanced_accuracy_drop", "accuracy_drop", "q_value", "damaged", "n_damaged")


def important_to(ds: xr.Dataset, *, most: int = 4) -> xr.Dataset:
    """To which classes is each unit important? Two rules side by side: the largest drops of a class, and the sure ones.

    Parameters
    ----------
    ds
        A study, or what `unitlab.damage` gives.
    most
        How many units of a class have its largest drops.

    Returns
    -------
    xarray.Dataset
        Over ``unit, category``: ``balanced_accuracy_drop``, ``drop_rank`` (1 for the largest drop of the class; 0 for a class
        without), ``among_largest`` (rank ``most`` at the worst, and a drop above zero), ``accuracy_drop``, ``q_value`` and
        ``damaged`` (q ≤ 0.05 and a drop above zero). Over ``unit``: ``n_important`` and ``n_damaged``, the classes by either
        rule. The pairs as a table: ``found.to_dataframe().query("among_largest or damaged")``.

    Raises
    ------
    UnitlabError
        ``ds`` is no study and no damage, or ``most`` is no whole number above 0.

    Notes
    -----
    The first rule is that of Bau et al. (PNAS 2020), who rank by the balanced accuracy over training images, four units a
    class. Every class has its largest drops, by luck, too; the second rule says which are more than that. Units with equal
    drops share the better rank, so that a class may have more than ``most`` units; it has fewer where fewer cost it anything.

    Examples
    --------
    >>> import unitlab
    >>> found = unitlab.important_to(unitlab.load("vgg_fashion"))
    >>> found.to_dataframe().query("among_largest or damaged").index.names
    FrozenList(['unit', 'category'])
    """
    if isinstance(most, bool) or not isinstance(most, int | np.integer) or most < 1:
        raise UnitlabError(f"most is {most!r}; expected a whole number, 1 or more, such as 4")
    require(ds, ["unit", "category"], "important_to")
    require_all_pairs(ds, "important_to")
    known = ds if set(OF_DAMAGE) <= set(ds.variables) else damage(ds)
    drop = known["balanced_accuracy_drop"].values
    some = np.isfinite(drop)
    rank = np.where(some, scipy.stats.rankdata(np.where(some, -drop, np.inf), method="min", axis=0), 0).astype(np.int32)
    largest = some & (rank <= most) & (drop > 0)
    values = {
        **{name: known[name].values for name in OF_DAMAGE},
        "drop_rank": rank,
        "among_largest": largest,
        "n_important": largest.sum(1).astype(np.int32),
    }
    return described_like(known, values, {"most": int(most)})
