"""The sweep: images stream once through the network, every unit is ablated, shards of results become a study."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import nn
from tqdm.auto import tqdm

from unitlab.compute.activations import ActivationStatistics
from unitlab.compute.groups import RootShards, layer_groups, root_group
from unitlab.compute.images import ImageSource
from unitlab.compute.images import images as image_source
from unitlab.compute.plan import SweepPlan, plan_sweep
from unitlab.compute.replacements import Replacement, replacement
from unitlab.compute.suffix import SuffixEngine
from unitlab.compute.verification import compared_with_hooks
from unitlab.compute.working_copy import exact_float32
from unitlab.errors import UnitlabError
from unitlab.partial_study import PartialStudy
from unitlab.study import assemble, open_study, study_summary
from unitlab.study_writing import write_study

__all__ = ["ablate"]

log = logging.getLogger("unitlab")

VERIFIED_PAIRS = 256


def ablate(
    model: nn.Module,
    images: Any,
    layer: str | Sequence[str],
    *,
    units: Sequence[int] | None = None,
    ablation: str = "zero",
    labels: str = "given",
    store: str | Path | None = None,
    device: str | torch.device | None = None,
    precision: str = "float32",
    batch_size: int | None = None,
    memory: str | int = "2 GB",
    progress: bool = True,
    seed: int = 0,
    attrs: dict[str, Any] | None = None,
) -> xr.Dataset | dict[str, xr.Dataset]:
    """Silence every unit of a layer, one at a time, and re-measure every class.

    Parameters
    ----------
    model
        An image classifier that returns logits (image, category). It comes back as it was.
    images
        What `unitlab.images` returns, or anything that it takes.
    layer
        A module name ("layer4"), a research alias ("conv5_3": after its ReLU, "conv5_3:pre": before it), the second
        call of a module ("layer4.1.relu#2"), "all" (every convolution), or a list of these.
    units
        Units to ablate, default all.
    ablation
        "zero", "mean" (the unit's mean over all images and positions) or "resample" (its map on another image).
    labels
        "given", or "predicted": the network's own predictions serve as labels.
    store
        Where to write the study, or to resume it; None keeps the result in memory.
    device
        "cpu", "cuda"; default CUDA where it is present.
    precision
        "float32", or "bfloat16" (products in bfloat16, close calls computed again in float32).
    batch_size
        Images at a time, default what fits into ``memory``.
    memory
        Bytes for the sweep besides the network, as a number or "2 GB".
    progress
        Show a progress bar.
    seed
        Of the donors of ``ablation="resample"``.
    attrs
        Further attributes of the study (its name, the network's accuracy …).

    Returns
    -------
    xarray.Dataset
        Variables of `unitlab.schema` over ``unit``, ``category``, ``image`` …; drops are fractions, positive when
        accuracy falls. For a list of layers, a dict of datasets by layer.

    Raises
    ------
    UnitlabError
        Bad input; a network that fails on the images; a store that belongs to another network, image set or setting.

    Examples
    --------
    >>> import torch, unitlab
    >>> from torchvision.models import squeezenet1_1
    >>> pictures = torch.utils.data.TensorDataset(torch.rand(8, 3, 64, 64), torch.arange(8))
    >>> names = [f"class {k}" for k in range(1000)]
    >>> photos = unitlab.images(pictures, categories=names)
    >>> ds = unitlab.ablate(squeezenet1_1(), photos, "classifier.1", units=[3, 5], progress=False)
    >>> ds.accuracy_drop.sizes["unit"]
    2
    """
    source = images if isinstance(images, ImageSource) else image_source(images)
    with exact_float32():
        plan = plan_sweep(
            model, source, layer,
            units=units, ablation=ablation, labels=labels, device=device, precision=precision,
            batch_size=batch_size, memory=memory, seed=seed,
        )  # fmt: skip
        if store is not None and Path(store).exists() and _finished(Path(store), plan):
            found = {site.layer: open_study(store, site.layer, ablation) for site in plan.sites}
        else:
            partial = PartialStudy(store, plan.fingerprint) if store is not None else None
            try:
                shards = _Shards(partial)
                _sweep(plan, source, shards, progress)
                groups = _groups(plan, source, shards, attrs or {}, model)
                if store is None or partial is None:
                    found = {site.layer: assemble(groups, site.layer, ablation) for site in plan.sites}
                else:
                    write_study(store, groups)
                    partial.remove()
                    found = {site.layer: open_study(store, site.layer, ablation) for site in plan.sites}
            finally:
                if partial is not None:
                    partial.close()
    return found[plan.sites[0].layer] if plan.one_layer else found


def _finished(store: Path, plan: SweepPlan) -> bool:
    """Whether the store has all that is asked for; a store of something else is refused."""
    summary = study_summary(store)
    for field in ("weights", "images", "transform", "labels"):
        there, asked = summary.attrs.get(f"fingerprint_{field}"), plan.fingerprint[field]
        if there != asked:
            raise UnitlabError(
                f"{store} was computed with other {field} (fingerprint {str(there)[:12]}, now {asked[:12]}); "
                "give another store, or remove this one"
            )
    missing = [site for site in plan.sites if plan.ablation not in summary.layers.get(site.layer, ())]
    if missing:
        return False
    for site in plan.sites:
        attrs = open_study(store, site.layer, plan.ablation).attrs
        for field in ("units", "precision", "seed", "site"):
            asked = plan.layer_fingerprint(site)[field]
            if str(attrs.get(f"fingerprint_{field}")) != asked:
                raise UnitlabError(
                    f"{store} holds {site.layer}/{plan.ablation} with other {field} "
                    f"({attrs.get(f'fingerprint_{field}')}, now {asked}); give another store, or remove this one"
                )
    return True


class _Shards:
    """Results by shard: on disk where there is a store, else in memory."""

    def __init__(self, partial: PartialStudy | None) -> None:
        self.partial = partial
        self.held: dict[int, dict[str, np.ndarray]] = {}

    def finished(self) -> list[int]:
        return sorted(self.held) if self.partial is None else self.partial.finished()

    def write(self, index: int, arrays: dict[str, np.ndarray]) -> None:
        if self.partial is None:
            self.held[index] = arrays
        else:
            self.partial.write(index, arrays)

    def read(self, index: int) -> dict[str, np.ndarray]:
        return self.held[index] if self.partial is None else self.partial.read(index)


def _sweep(plan: SweepPlan, source: ImageSource, shards: _Shards, progress: bool) -> None:
    """Compute the shards that are not finished yet."""
    done = set(shards.finished())
    finished_images = sum(plan.shard_bounds[i][1] - plan.shard_bounds[i][0] for i in done)
    for site, engine in zip(plan.sites, plan.engines, strict=True):
        log.info("%s (%s): %s", site.layer, site.text, engine.strategy)
    if len(done) == len(plan.shard_bounds):
        return
    with tqdm(total=len(source), initial=finished_images, unit=" images", disable=not progress, desc=plan.description) as bar:
        replacements = [_replacement(plan, source, i) for i in range(len(plan.sites))]
        for index, (start, stop) in enumerate(plan.shard_bounds):
            if index not in done:
                shards.write(index, _shard(plan, source, start, stop, replacements, bar))


def _replacement(plan: SweepPlan, source: ImageSource, number: int) -> Replacement:
    """What the units of one site are replaced by; for mean and resample the network runs up to the site once more."""

    def site_values(positions: np.ndarray) -> Iterator[torch.Tensor]:
        if len(positions) == len(source):
            batches = (batch for batch, _ in source.batches(0, len(source), plan.batch_size))
        else:
            batches = (next(iter(source.batches(int(i), int(i) + 1, 1)))[0] for i in positions)
        for batch in batches:
            yield from _site_values(plan, number, batch)

    return replacement(plan.ablation, len(source), plan.seed, site_values)


def _site_values(plan: SweepPlan, number: int, batch: torch.Tensor) -> Iterator[torch.Tensor]:
    """The site's value for a batch, in halves where a GPU's memory runs out."""
    try:
        yield plan.network.evaluate(batch, None, [plan.sites[number]], set(), first_order=False).site_values[0]
    except torch.OutOfMemoryError as error:
        for half in _halves(batch, error):
            yield from _site_values(plan, number, half)


def _halves(batch: torch.Tensor, error: torch.OutOfMemoryError) -> tuple[torch.Tensor, torch.Tensor]:
    """What to go on with after an out-of-memory error."""
    if len(batch) == 1:
        raise UnitlabError("one image does not fit into the device's memory; compute on 'cpu'") from error
    torch.cuda.empty_cache()
    half = len(batch) // 2
    log.warning("out of memory: going on with batches of %d images", half)
    return batch[:half], batch[half:]


def _shard(
    plan: SweepPlan, source: ImageSource, start: int, stop: int, replacements: list[Replacement], bar: tqdm[Any]
) -> dict[str, np.ndarray]:
    """All that the images from ``start`` to ``stop`` give, as arrays named "variable" or "layer/variable"."""
    statistics = [ActivationStatistics(plan.units[i], plan.network.categories) for i in range(len(plan.sites))]
    results: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in plan.sites]
    root = RootShards()
    for batch, positions in source.batches(start, stop, plan.batch_size):
        positions = np.asarray(positions)
        _evaluate_batch(plan, source, batch, positions, replacements, statistics, results, root)
        bar.update(len(positions))
    arrays = root.arrays()
    for site, stats, parts in zip(plan.sites, statistics, results, strict=True):
        found = stats.arrays()
        found["prediction"] = np.concatenate([part[0] for part in parts], 1)
        found["label_margin_drop"] = np.concatenate([part[1] for part in parts], 1)
        arrays.update({f"{site.layer}/{name}": array for name, array in found.items()})
    return arrays


def _evaluate_batch(
    plan: SweepPlan,
    source: ImageSource,
    batch: torch.Tensor,
    positions: np.ndarray,
    replacements: list[Replacement],
    statistics: list[ActivationStatistics],
    results: list[list[tuple[np.ndarray, np.ndarray]]],
    root: RootShards,
) -> None:
    """One batch; where a GPU's memory runs out, the batch is halved and the engines take smaller bites."""
    try:
        labels = None if plan.labels == "predicted" else torch.as_tensor(source.labels[positions])
        evaluation = plan.network.evaluate(batch, labels, plan.sites, plan.needed, first_order=plan.first_order)
        base = evaluation.baseline
        scored = []
        with torch.no_grad():
            for number, engine in enumerate(plan.engines):
                like = evaluation.site_values[number]
                scored.append(engine.evaluate(base, replacements[number].of(positions, like)))
    except torch.OutOfMemoryError as error:
        halves = _halves(batch, error)
        for engine in plan.engines:
            if isinstance(engine, SuffixEngine):
                engine.memory //= 2
        begin = 0
        for half in halves:
            some = positions[begin : begin + len(half)]
            _evaluate_batch(plan, source, half, some, replacements, statistics, results, root)
            begin += len(half)
        return
    except (UnitlabError, KeyboardInterrupt):
        raise
    except Exception as error:
        ids = [source.ids[i] for i in positions[:3]]
        raise UnitlabError(f"the network failed on images {ids} …: {type(error).__name__}: {error}") from error
    root.add(batch, base)
    probabilities = evaluation.logits.softmax(1)
    where = torch.as_tensor(positions)
    for number, stats in enumerate(statistics):
        first_order = None if evaluation.first_order is None else evaluation.first_order[number]
        stats.add(evaluation.site_values[number], where, base.labels, probabilities, first_order)
        prediction, margin = scored[number]
        drop = (base.margin - margin).half()
        results[number].append((prediction.cpu().numpy().astype(plan.prediction_dtype), drop.cpu().numpy()))


def _groups(
    plan: SweepPlan, source: ImageSource, shards: _Shards, attrs: dict[str, Any], model: nn.Module
) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """The study's groups from its shards."""
    held = [shards.read(index) for index in range(len(plan.shard_bounds))]
    root_arrays, root_attrs = root_group(plan, source, held)
    groups: dict[str, Any] = {"": (root_arrays, {**root_attrs, **attrs})}
    for number, site in enumerate(plan.sites):
        (layer_arrays, layer_attrs), (arrays, ablation_attrs) = layer_groups(plan, number, held, root_arrays)
        proof = compared_with_hooks(
            model, source, site, plan.units[number], plan.ablation, plan.seed, arrays["prediction"],
            device=plan.network.device, sample=VERIFIED_PAIRS, seed=0,
        )  # fmt: skip
        if proof.different:
            log.warning("%s: %d of %d pairs differ from plain hooks", site.layer, proof.different, proof.compared)
        _check_that_nothing_changes_nothing(plan, source, number)
        groups[site.layer] = (layer_arrays, layer_attrs)
        groups[f"{site.layer}/{plan.ablation}"] = (arrays, {**ablation_attrs, **proof.attrs(), "null_check": "passed"})
    return groups


def _check_that_nothing_changes_nothing(plan: SweepPlan, source: ImageSource, number: int) -> None:
    """The null check: units replaced by what they are give exactly the baseline."""
    batch, positions = next(iter(source.batches(0, 1, 1)))
    labels = torch.as_tensor(source.labels[np.asarray(positions)])
    evaluation = plan.network.evaluate(batch, labels, plan.sites, plan.needed, first_order=False)
    with torch.no_grad():
        prediction, margin = plan.engines[number].evaluate(evaluation.baseline, evaluation.site_values[number])
    base = evaluation.baseline
    if not (
        torch.equal(prediction, base.prediction.expand_as(prediction)) and torch.equal(margin, base.margin.expand_as(margin))
    ):
        raise UnitlabError(
            f"replacing the units of {plan.sites[number].layer} by themselves changes the logits: the network does not give "
            "the same result twice; put it into a state in which it does"
        )
