"""Curves of accuracy while units are silenced one after the other, in the order of a ranking."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import nn

from unitlab.analysis.accuracies import accuracy_curves
from unitlab.analysis.rankings import Ranking, rankable, ranking
from unitlab.analysis.splits import one_half
from unitlab.compute.engine.torch_state import exact_float32
from unitlab.compute.engine.user_network.outputs import Output
from unitlab.compute.images.datasets import images as image_source
from unitlab.compute.images.source import ImageSource
from unitlab.compute.stored_result import StoredResult
from unitlab.compute.sweep.fingerprints import text_fingerprint, unit_dim_of
from unitlab.compute.sweep.memory import resolved_memory
from unitlab.compute.sweep.plan import SweepPlan
from unitlab.compute.sweep.progress import one_bar
from unitlab.compute.sweep.request import SweepRequest
from unitlab.compute.sweep.run import run_sweep
from unitlab.compute.sweep.shards import ImageFacts
from unitlab.compute.sweep.study_arrays import root_group
from unitlab.compute.unit_groups import (
    checked_units,
    joined_facts,
    plan_attrs,
    plan_of_one_layer,
    result_fingerprint,
    scored_sets,
)
from unitlab.errors import UnitlabError, before_and_now, nearest_names
from unitlab.schema import CURVE_VARIABLES, described

# More sets of units than this are thinned out, unless `ks` asks for them.
EVERY_K = 4096


def cumulative(  # noqa: PLR0913  the public call
    model: nn.Module,
    images: Any,
    layer: str,
    order: str | Sequence[int] | np.ndarray,
    *,
    keep: bool = False,
    rank_on: str | xr.Dataset = "crossfit",
    ascending: bool = False,
    category: str | None = None,
    ks: Sequence[int] | None = None,
    n_random: int = 10,
    unit_dim: int | None = None,
    ablation: str = "zero",
    labels: str = "given",
    device: str | torch.device | None = None,
    batch_size: int | None = None,
    memory: str | int | None = None,
    progress: bool = True,
    seed: int = 0,
    output: Output = None,
    store: str | Path | None = None,
) -> xr.Dataset:
    """Accuracy while the first k units of an order are silenced together, or while only they are kept.

    Parameters
    ----------
    model, images, layer, unit_dim, ablation, labels, device, batch_size, memory, progress, output
        As for `unitlab.ablate`; one layer. Units are along the dimension that a study given as ``rank_on`` has them in.
    order
        The name of an attribute (`unitlab.attributes`) or importance (`unitlab.damage`), largest first; or the units
        themselves, in order; or "random". A name over ``unit, category``, such as "accuracy_drop", gives every class an
        order of its own, or with ``category`` one order, by that class.
    keep
        Silence all units of the layer but the first k.
    rank_on
        Where a named order comes from. "crossfit": two halves of the images (class by class, clusters whole); the order of
        each half is measured on the other, and every image counts once. "same": the images that the curve is measured on,
        which flatters the curve. Or a study of this layer on other images. The first two compute the study that they rank
        by, which costs a sweep.
    ascending
        Smallest first. Units for which the variable is undefined come last, equal ones in the order of their numbers.
    category
        Name of the class that a variable over ``unit, category`` is taken for.
    ks
        Numbers of units to measure at. Default every one from 0 to all; where that would be more than 4,096 sets of units,
        about four to each doubling.
    n_random
        Random orders, for ``order="random"``.
    seed
        Of the halves, the random orders and the donors of ``ablation="resample"``.
    store
        Where to write the result, which `unitlab.load` opens; None keeps it in memory. An order that needs no study computed
        for it is resumed there, too, where it was cut off.

    Returns
    -------
    xarray.Dataset
        Over ``order, k``: ``accuracy`` (all images) with ``accuracy_low``, ``accuracy_high`` (95 %, cluster-robust), and
        ``mean_balanced_accuracy`` (mean over classes). Over ``order, k, category``: ``class_accuracy``,
        ``balanced_accuracy``. Over ``order, k, image``: ``curve_prediction``. ``ranked_unit`` (half, order, rank) tells the
        orders. Where every class has its own order, ``order`` holds the classes, and ``own_accuracy`` and
        ``own_balanced_accuracy`` (order, k) are each class's accuracies under its own order. The attributes tell
        ``rank_on`` and, for "same", that the curve is ``biased``.

    Raises
    ------
    UnitlabError
        An order with repeats or foreign units, an unknown variable or class (the nearest names are suggested), a study of
        another network or layer, a store of something else, and what `unitlab.ablate` refuses.

    Notes
    -----
    The sets of an order are nested, so that each costs what it adds: a whole curve costs about what a sweep does.
    ``order="balanced_accuracy_drop", ks=[0, 20]`` and the mean of ``own_balanced_accuracy`` is the measurement of Bau et
    al. (PNAS 2020): each class's 20 most important units removed.

    Examples
    --------
    >>> import unitlab
    >>> from unitlab.compute.networks import bundled_network
    >>> photos = unitlab.images("fashion_mnist").subset(range(200))
    >>> curve = unitlab.cumulative(
    ...     bundled_network("vgg_fashion"), photos, "conv3_2", "overall_drop", ks=[0, 4, 16], progress=False
    ... )
    >>> curve.accuracy.sizes["k"]
    3
    """
    source = images if isinstance(images, ImageSource) else image_source(images)
    if unit_dim is None and isinstance(rank_on, xr.Dataset):
        unit_dim = unit_dim_of(rank_on.attrs)
    request = SweepRequest(
        layer, ablation=ablation, labels=labels, batch_size=batch_size, memory=memory, seed=seed,
        output=output, unit_dim=unit_dim, top_k=0,
    )  # fmt: skip
    request = resolved_memory(request, store, device)
    with exact_float32():
        plan = plan_of_one_layer(model, source, request, device)
        asked = _Asked(plan, order, ascending, category, n_random, seed)
        in_parts = asked.by_name and not isinstance(rank_on, xr.Dataset)
        if asked.by_name and isinstance(rank_on, xr.Dataset):
            _check_same_network(rank_on, plan)
        elif in_parts and rank_on not in ("crossfit", "same"):
            raise UnitlabError(f"rank_on={rank_on!r}; expected 'crossfit', 'same' or a study (xarray.Dataset)")
        known = asked.ranked(rank_on) if asked.by_name and isinstance(rank_on, xr.Dataset) else None
        known = known if asked.by_name else asked.given()
        kept = StoredResult(store, "curves", {**result_fingerprint(plan), "curves": asked.text(known, rank_on, keep, ks)})
        if kept.there:
            return kept.open()
        # ranked and measured, each after the means of the units
        passes = (1 + in_parts) * (2 if ablation == "mean" else 1)
        with one_bar(passes * len(source), f"cumulative {ablation} ablation of {plan.layers_text}", progress):
            measured: list[tuple[np.ndarray, Ranking]] = []
            everything = np.arange(len(source))
            if known is not None:
                measured.append((everything, known))
            else:
                parts = [everything, everything] if rank_on == "same" else _halves(source, seed)
                # what is ranked on the one is measured on the other
                for some, others in [parts] if rank_on == "same" else [parts, parts[::-1]]:
                    studies = run_sweep(model, source.subset(some), request, device=device, progress=progress)
                    measured.append((others, asked.ranked(studies[layer])))
            labels_of = [found.labels for _, found in measured]
            names = [name for name in labels_of[0] if all(name in other for other in labels_of)]
            if not names:
                raise UnitlabError(
                    f"'{order}' ranks no unit: no class has images in both halves; give rank_on='same' or a study"
                )
            measured = [(some, found.of(names)) for some, found in measured]
            at = _ks(ks, measured[0][1].units.shape[1], len(names))
            prediction = np.empty((len(names), len(at), len(source)), plan.prediction_dtype)
            facts = []
            for some, found in measured:
                resumed = kept if len(measured) == 1 else None
                prediction[:, :, some], of_part = _predictions(plan, source.subset(some), found, at, keep, progress, resumed)
                facts.append((some, of_part))
    root, root_attrs = root_group(plan, source, [_joined(facts)])
    how = "study" if isinstance(rank_on, xr.Dataset) else rank_on if asked.by_name else "none"
    name = order if isinstance(order, str) else "given"
    attrs: dict[str, Any] = {
        **root_attrs, **plan_attrs(plan), "order": name, "keep": int(keep), "rank_on": how, "ascending": int(ascending),
        "category": category or "", "biased": int(how == "same"), "seed": seed,
    }  # fmt: skip
    values = {
        **accuracy_curves(root, prediction, own=asked.own_orders, names=names),
        **{name: root[name] for name in ("category", "category_index", "image", "label", "n_images", "baseline_prediction")},
        "order": np.array(names, dtype=object),
        "k": np.array(at, dtype=np.int32),
        "ranked_unit": np.stack([found.units for _, found in measured]).astype(np.int32),
        "curve_prediction": prediction,
    }
    if "cluster" in root:
        values["cluster"] = root["cluster"]
    return kept.written(described(CURVE_VARIABLES, values, attrs))


@dataclass(frozen=True)
class _Asked:
    """The order asked for, checked before anything is computed."""

    plan: SweepPlan
    order: Any
    ascending: bool
    category: str | None
    n_random: int
    seed: int

    def __post_init__(self) -> None:
        if isinstance(self.order, str) and self.order != "random":
            dims = rankable(self.order)
            if self.category is not None and self.category not in self.plan.categories:
                near = nearest_names(str(self.category), self.plan.categories)
                raise UnitlabError(f"category={self.category!r} is no class of the network. {near}")
            if self.category is not None and dims == ("unit",):
                raise UnitlabError(f"order='{self.order}' is one number a unit, whatever the class; leave out category")
            return
        if self.category is not None:
            raise UnitlabError("category goes with an order by a variable over classes, such as 'accuracy_drop'")
        valid = isinstance(self.n_random, int | np.integer) and not isinstance(self.n_random, bool) and self.n_random > 0
        if isinstance(self.order, str) and not valid:
            raise UnitlabError(f"n_random={self.n_random!r}; expected a number of random orders, at least 1")

    def text(self, known: Ranking | None, rank_on: Any, keep: bool, ks: Sequence[int] | None) -> str:
        """Fingerprint of the orders, as far as they are known before anything is computed, and of what is measured of them."""
        orders = (self.order, self.ascending, self.category, rank_on, self.seed)
        told = orders if known is None else (self.order if self.by_name else "", known.labels, known.units.tolist())
        return text_fingerprint(repr((told, bool(keep), None if ks is None else np.asarray(ks).tolist())))

    @property
    def channels(self) -> int:
        return len(self.plan.layers[0].units)

    @property
    def by_name(self) -> bool:
        return isinstance(self.order, str) and self.order != "random"

    @property
    def own_orders(self) -> bool:
        """Whether every class has an order of its own."""
        return self.by_name and self.category is None and len(rankable(self.order)) == 2

    def given(self) -> Ranking:
        """Random orders, or the one that was given."""
        if isinstance(self.order, str):
            random = np.random.default_rng(self.seed)
            shuffled = np.stack([random.permutation(self.channels) for _ in range(self.n_random)])
            return Ranking([f"random {number}" for number in range(self.n_random)], shuffled)
        units = checked_units(self.order, self.channels, self.plan.layers[0].name, "order")
        if not units:
            raise UnitlabError("order is empty; give units in the order in which to silence them")
        return Ranking(["given"], np.array([units]))

    def ranked(self, study: xr.Dataset) -> Ranking:
        """The order that a study gives."""
        found = ranking(study, self.order, ascending=self.ascending, category=self.category, seed=self.seed)
        foreign = [unit for unit in found.units[0] if unit >= self.channels] if len(found.labels) else []
        if foreign:
            raise UnitlabError(f"the study ranks unit {foreign[0]}; the layer has units 0 to {self.channels - 1}")
        return found


def _check_same_network(study: xr.Dataset, plan: SweepPlan) -> None:
    """Refuse to rank on a study of another network or layer."""
    site = plan.layers[0].site
    if unit_dim_of(study.attrs) != site.unit_dim:
        raise UnitlabError(
            f"rank_on is a study of units along dimension {unit_dim_of(study.attrs)} of the layer's value, and unit_dim="
            f"{site.unit_dim} is given; leave it out"
        )
    for name, now in (("fingerprint_weights", plan.fingerprint["weights"]), ("site", site.text)):
        there = str(study.attrs.get(name))
        if there != now:
            raise UnitlabError(
                f"rank_on is a study of another {'network' if name != 'site' else 'layer'}{before_and_now(there, now)}; "
                "give one of the same weights and layer"
            )


def _halves(source: ImageSource, seed: int) -> list[np.ndarray]:
    """Positions of the images of two halves, class by class, clusters whole."""
    half = one_half(source.clusters, source.labels, seed)
    parts = [np.flatnonzero(half), np.flatnonzero(~half)]
    if not all(len(part) for part in parts):
        raise UnitlabError("rank_on='crossfit' takes two halves of the images, and these cannot be halved; rank on a study")
    return parts


def _ks(given: Sequence[int] | None, longest: int, orders: int) -> list[int]:
    """Numbers of units to measure at, ascending."""
    if given is None:
        if orders * longest <= EVERY_K:
            return list(range(longest + 1))
        steps = np.unique(np.round(2 ** np.arange(0, np.log2(longest), 0.25)).astype(int))
        return [0, *steps.tolist(), longest] if longest not in steps else [0, *steps.tolist()]
    ks = np.asarray(given)
    if ks.ndim != 1 or not len(ks) or ks.dtype.kind not in "iu" or ks.min() < 0 or ks.max() > longest:
        raise UnitlabError(f"ks={given!r}; expected numbers of units from 0 to {longest}, for example [0, 4, 20]")
    return sorted(set(ks.tolist()))


def _predictions(
    plan: SweepPlan, source: ImageSource, orders: Ranking, ks: list[int], keep: bool, progress: bool, kept: StoredResult | None
) -> tuple[np.ndarray, ImageFacts]:
    """Predictions (order, k, image) and what is known of the images."""
    everything = range(len(plan.layers[0].units))
    sets: list[list[int]] = []
    for units in orders.units:
        # in the direction in which the silenced sets grow, so that each follows the one before
        for k in reversed(ks) if keep else ks:
            first = units[:k].tolist()
            sets.append(sorted(set(everything) - set(first)) if keep else first)
    scores, facts = scored_sets(plan, source, sets, progress, kept)
    prediction = scores["prediction"].reshape(len(orders.units), len(ks), len(source))
    return prediction[:, ::-1] if keep else prediction, joined_facts(facts)


def _joined(parts: list[tuple[np.ndarray, ImageFacts]]) -> ImageFacts:
    """What is known of the images, from the parts that were measured apart, in the order of the whole source."""
    order = np.argsort(np.concatenate([some for some, _ in parts]))
    found = joined_facts([facts for _, facts in parts])
    return ImageFacts(**{name: values[order] for name, values in vars(found).items() if values is not None})
