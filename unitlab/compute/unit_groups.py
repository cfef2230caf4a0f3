"""Sets of units silenced together."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import nn

from unitlab.analysis.accuracies import balanced_accuracy, class_counts
from unitlab.compute.engine.scores import Outcome
from unitlab.compute.engine.torch_state import exact_float32
from unitlab.compute.engine.user_network.outputs import Output
from unitlab.compute.images.datasets import images as image_source
from unitlab.compute.images.source import ImageSource
from unitlab.compute.stored_result import StoredResult
from unitlab.compute.sweep.fingerprints import text_fingerprint
from unitlab.compute.sweep.memory import resolved_memory
from unitlab.compute.sweep.passes import compute_shards
from unitlab.compute.sweep.plan import SweepPlan, plan_sweep
from unitlab.compute.sweep.proof import PlainAblation, PlainNetworks, compared_with_hooks, pairs_to_verify, stored_outcomes
from unitlab.compute.sweep.request import SweepRequest
from unitlab.compute.sweep.shards import SCORES, Arrays, ImageFacts, ShardResult
from unitlab.compute.sweep.study_arrays import (
    ROOT_FINGERPRINTS,
    counts_and_rates,
    further_scores,
    root_group,
    scores_attrs,
    units_attrs,
)
from unitlab.errors import UnitlabError
from unitlab.schema import GROUP_VARIABLES, described

log = logging.getLogger("unitlab")

Groups = Mapping[str, Iterable[int]] | Sequence[Iterable[int]]


def ablate_groups(  # noqa: PLR0913  the public call
    model: nn.Module,
    images: Any,
    layer: str,
    groups: Groups,
    *,
    unit_dim: int | None = None,
    ablation: str = "zero",
    labels: str = "given",
    device: str | torch.device | None = None,
    batch_size: int | None = None,
    memory: str | int | None = None,
    progress: bool = True,
    seed: int = 0,
    output: Output = None,
    top_k: int | None = None,
    outcome: Outcome | tuple[str, Outcome] | None = None,
    store: str | Path | None = None,
) -> xr.Dataset:
    """Silence sets of units of a layer, each set as a whole, and re-measure every class.

    Parameters
    ----------
    model, images, layer, unit_dim, ablation, labels, device, batch_size, memory, progress, seed, output, top_k, outcome
        As for `unitlab.ablate`; one layer.
    groups
        Sets of units: a sequence of them, or a mapping from names. A group may be empty. A group that holds all units of
        the one before it costs no more than the units that it adds.
    store
        Where to write the result, which `unitlab.load` opens, or to resume it; None keeps it in memory.

    Returns
    -------
    xarray.Dataset
        Over ``group, image``: ``prediction``, ``label_margin_drop`` (logits). Over ``group, category``: ``n_broken``,
        ``n_fixed``, ``n_predicted``, ``accuracy_drop``, ``balanced_accuracy_drop``. Over ``group``: ``overall_drop``,
        ``n_units``. ``member`` (group, unit) tells who is in which group. Drops are fractions, positive when accuracy falls.
        ``ds.drop_dims("unit").rename(group="unit")`` is what `unitlab.damage` takes for intervals and tests, if the groups
        have numbers and no names. Further variables as `unitlab.ablate` has them with
        ``top_k`` and ``outcome``. The attributes tell how many pairs were compared with plain hooks.

    Raises
    ------
    UnitlabError
        No groups, a unit that the layer does not have or that a group names twice, a store of something else, and what
        `unitlab.ablate` refuses.

    Examples
    --------
    >>> import torch, unitlab
    >>> from torchvision.models import squeezenet1_1
    >>> pictures = torch.utils.data.TensorDataset(torch.rand(8, 3, 64, 64), torch.arange(8))
    >>> photos = unitlab.images(pictures, categories=[f"class {k}" for k in range(1000)])
    >>> groups = {"first": [0, 1, 2], "last": range(990, 1000)}
    >>> ds = unitlab.ablate_groups(squeezenet1_1(), photos, "classifier.1", groups, progress=False)
    >>> ds.n_units.values.tolist()
    [3, 10]
    """
    source = images if isinstance(images, ImageSource) else image_source(images)
    request = SweepRequest(
        layer, ablation=ablation, labels=labels, batch_size=batch_size, memory=memory, seed=seed,
        output=output, unit_dim=unit_dim, top_k=top_k, outcome=outcome,
    )  # fmt: skip
    request = resolved_memory(request, store, device)
    with exact_float32():
        plan = plan_of_one_layer(model, source, request, device)
        names, sets = _named_sets(groups, len(plan.layers[0].units), layer)
        kept = StoredResult(
            store, "groups", {**result_fingerprint(plan), "groups": text_fingerprint(repr((names.tolist(), sets)))}
        )
        if kept.there:
            return kept.open()
        scores, facts = scored_sets(plan, source, sets, progress, kept)
        root, root_attrs = root_group(plan, source, facts)
        further = further_scores([scores], [joined_facts(facts)], root)
        networks = PlainNetworks(model, plan.network.device, plan.network.reading)
        plain = PlainAblation(networks, source, plan.layers[0].site, request)
        prediction, outcomes = scores["prediction"], stored_outcomes(plan.scoring, further, root["label"])
        count = pairs_to_verify(len(source))
        proof = compared_with_hooks(plain, sets, prediction, sample=count, seed=0, outcomes=outcomes)
    proof.warn(layer)
    rates = counts_and_rates(prediction, root)
    label, n = root["label"].astype(np.int64), root["n_images"]
    before = class_counts(label, root["baseline_prediction"], len(n))
    after = class_counts(label, prediction, len(n))
    member = np.zeros((len(sets), len(plan.layers[0].units)), bool)
    for place, units in enumerate(sets):
        member[place, units] = True
    values = {
        **root,
        **rates,
        **{name: values[:] for name, values in further.items()},
        "balanced_accuracy_drop": balanced_accuracy(*before, n) - balanced_accuracy(*after, n),
        "group": names,
        "unit": np.arange(member.shape[1], dtype=np.int32),
        "member": member,
        "n_units": member.sum(1).astype(np.int32),
        "prediction": prediction,
        "label_margin_drop": scores["label_margin_drop"],
    }
    return kept.written(described(GROUP_VARIABLES, values, {**root_attrs, **plan_attrs(plan), **proof.attrs()}))


def plan_attrs(plan: SweepPlan) -> dict[str, Any]:
    """What a result of one layer says of how it came about."""
    layer, request = plan.layers[0], plan.request
    return {
        "layer": layer.name, "site": layer.site.text, "site_call": layer.site.call, "channels": len(layer.units),
        **units_attrs(layer),
        "ablation": request.ablation, "strategy": layer.engine.strategy, "capture": plan.network.capture, "seed": request.seed,
        "batch_size": plan.batch_size, **scores_attrs(plan),
    }  # fmt: skip


def plan_of_one_layer(
    model: nn.Module, source: ImageSource, request: SweepRequest, device: str | torch.device | None
) -> SweepPlan:
    """The plan of a request that names one layer."""
    if not request.one_layer:
        raise UnitlabError(f"layer={request.layer!r}: groups and curves are of one layer; give its name, such as 'layer4'")
    return plan_sweep(model, source, request, device)


def result_fingerprint(plan: SweepPlan) -> dict[str, str]:
    """What a result of one layer depends on, beyond what it asks of it."""
    return {
        **{name: plan.fingerprint[name] for name in ROOT_FINGERPRINTS if name in plan.fingerprint},
        **plan.layer_fingerprint(plan.layers[0]),
        "ablation": plan.request.ablation,
    }


def scored_sets(
    plan: SweepPlan, source: ImageSource, sets: Sequence[Sequence[int]], progress: bool, kept: StoredResult | None = None
) -> tuple[Arrays, list[ImageFacts]]:
    """Scores (set, image) by name, and what is known of the images: those of the plan, or some of them.

    Shards of what is to be ``kept`` in a store are, until it is there.
    """
    layer, plan = plan.layers[0], plan.for_images(len(source))
    layer.engine.silence_together(sets)
    where = f"{layer.site.text}, {layer.layout.text}"
    log.info("%s (%s): %d sets of units; %s", layer.name, where, len(sets), layer.engine.strategy)
    plan = replace(plan, described_as=f"{plan.request.ablation} ablation of {len(sets)} sets of units of {layer.name}")
    with (StoredResult(None, "", {}) if kept is None else kept).shards(plan.fingerprint) as shards:
        compute_shards(plan, source, shards, progress, for_study=False)
        found = [ShardResult.from_arrays(shards.read(index)) for index in range(len(plan.shard_bounds))]
        ablations = [result.layers[layer.name].ablation for result in found]
        scores = {
            name: np.concatenate([np.asarray(one[name]) for one in ablations], 1) for name in SCORES if name in ablations[0]
        }
        return scores, [joined_facts([result.images]) for result in found]


def joined_facts(facts: Sequence[ImageFacts]) -> ImageFacts:
    """What is known of the images of several shards, in their order."""
    names = [name for name in vars(facts[0]) if name != "thumbnails" and all(getattr(part, name) is not None for part in facts)]
    return ImageFacts(**{name: np.concatenate([np.asarray(getattr(part, name)) for part in facts]) for name in names})


def _named_sets(groups: Groups, channels: int, layer: str) -> tuple[np.ndarray, list[list[int]]]:
    """Names (or numbers) of the groups, and their units in ascending order."""
    if isinstance(groups, str) or not isinstance(groups, Mapping | Sequence | np.ndarray):
        raise UnitlabError(
            f"groups is a {type(groups).__name__}; give a list of lists of units, or a mapping from names: {{'first': [0, 1]}}"
        )
    if not len(groups):
        raise UnitlabError("groups is empty; give a list of lists of units, or a mapping from names to them")
    if isinstance(groups, Mapping):
        names = np.array([str(name) for name in groups], dtype=object)
        if len(set(names)) != len(names):
            raise UnitlabError(f"two groups have the same name: {sorted(names)}")
        given: Iterable[Any] = groups.values()
    else:
        names, given = np.arange(len(groups)), groups
    return names, [
        sorted(checked_units(units, channels, layer, f"group {name!r}")) for name, units in zip(names, given, strict=True)
    ]


def checked_units(units: Any, channels: int, layer: str, what: str) -> list[int]:
    """``units`` as whole numbers of units of the layer, none twice."""
    if isinstance(units, xr.DataArray | np.ndarray):
        units = units.tolist() if isinstance(units, np.ndarray) else units.values.tolist()
    if isinstance(units, str) or not isinstance(units, Iterable):
        raise UnitlabError(f"{what} is {units!r}; expected unit numbers, for example [3, 14, 15]")
    units = list(units)
    wrong = [unit for unit in units if isinstance(unit, bool) or not isinstance(unit, int | np.integer)]
    foreign = [unit for unit in units if unit not in wrong and not 0 <= unit < channels]
    repeated = sorted({unit for unit in units if units.count(unit) > 1}) if len(set(units)) != len(units) else []
    if wrong or foreign:
        raise UnitlabError(f"{what} names {(wrong or foreign)[:5]}; layer '{layer}' has units 0 to {channels - 1}")
    if repeated:
        raise UnitlabError(f"{what} names the units {repeated[:5]} more than once; give each unit once")
    return [int(unit) for unit in units]
