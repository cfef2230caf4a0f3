"""The sweep: images stream once through the network, every unit is ablated, shards of results become a study."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xarray as xr
from torch import nn

from unitlab.compute.engine.scores import Outcome
from unitlab.compute.engine.torch_state import choose_device, exact_float32
from unitlab.compute.engine.user_network.outputs import Output
from unitlab.compute.images.datasets import images as image_source
from unitlab.compute.images.source import ImageSource
from unitlab.compute.sweep.baseline import measured_baseline, say_baseline
from unitlab.compute.sweep.fingerprints import as_in_store, request_in_store
from unitlab.compute.sweep.memory import resolved_memory
from unitlab.compute.sweep.passes import compute_shards, results_of, say_certificate
from unitlab.compute.sweep.plan import SweepPlan, plan_sweep
from unitlab.compute.sweep.progress import within_one_bar
from unitlab.compute.sweep.proof import PlainAblation, PlainNetworks, compared_with_hooks, pairs_to_verify, stored_outcomes
from unitlab.compute.sweep.request import SweepRequest
from unitlab.compute.sweep.study_arrays import Group, layer_groups, root_group, undefined_attributes
from unitlab.compute.sweep.units_left import plans_left
from unitlab.errors import UnitlabError
from unitlab.store.shards import HeldShards, PartialStudy, Shards, remove_left_shards, unfinished_fingerprint
from unitlab.store.study import assemble, open_study
from unitlab.store.writing import write_study

if TYPE_CHECKING:
    import distributed

    from unitlab.compute.sweep.cluster import WorkerPool


log = logging.getLogger("unitlab")


def ablate(  # noqa: PLR0913  the public call
    model: nn.Module,
    images: Any,
    layer: str | Sequence[str],
    *,
    units: Sequence[int] | None = None,
    unit_dim: int | Mapping[str, int] | None = None,
    ablation: str = "zero",
    basis: str | np.ndarray | torch.Tensor | None = None,
    power: float | None = None,
    directions: np.ndarray | torch.Tensor | None = None,
    subtract: Callable[[torch.Tensor], torch.Tensor] | None = None,
    labels: str = "given",
    store: str | Path | None = None,
    device: str | torch.device | None = None,
    precision: str = "float32",
    batch_size: int | None = None,
    memory: str | int | None = None,
    progress: bool = True,
    seed: int = 0,
    output: Output = None,
    top_k: int | None = None,
    outcome: Outcome | tuple[str, Outcome] | None = None,
    screen: float | None = None,
    attrs: dict[str, Any] | None = None,
    client: distributed.Client | None = None,
) -> xr.Dataset | dict[str, xr.Dataset]:
    """Silence every unit of a layer, one at a time, and re-measure every class.

    Parameters
    ----------
    model
        An image classifier; ``output`` tells how its logits are found. It comes back as it was: hooks of yours are not called
        and have no part in the study.
    images
        What `unitlab.images` returns, or anything that it takes.
    layer
        A module name ("layer4"), a research alias ("conv5_3": after its ReLU, "conv5_3:pre": before it), the second
        call of a module ("layer4.1.relu#2"), "all" (every convolution), or a list of these.
    units
        Units to ablate, default all.
    unit_dim
        Dimension of the layer's value along which its units are, or a dict from layers to such numbers. Default: what made the
        value tells (1 behind convolutions, the last behind linear layers), and the log and the study say which it is.
    ablation
        "zero", "mean" (the unit's mean over all images and positions) or "resample" (its map on another image).
    basis
        Ablate directions instead of units: the axes of a basis, "random" (``seed`` tells which), "pca" (principal axes of
        the activations, by descending variance) or an orthogonal matrix (direction, channel) whose rows are the
        directions. At every position x becomes x − ((x − y)·v) v, with y what ``ablation`` replaces units by: 0, their
        mean, their map on another image. ``units`` then picks directions.
    power
        How far the basis is turned from the units' own axes: R^α with α from 0 (the units) to 1 (the basis), each plane of
        the rotation R by α of its angle. ``basis="random", power=0.3`` is called "random-0-power-0.3".
    directions
        Any directions (direction, channel), as of a dictionary, concept activation vectors or a class's weights: each is
        ablated alone, as those of a basis are. They need not be at right angles, and may be more than channels; they are
        divided by their lengths, which the log and the attribute "directions" say. What they remove need not sum to one.
    subtract
        Codes of your own for ``directions``, (image, direction, …), from the layer's values (image, channel, …) in float32,
        such as an autoencoder's: without direction i, x then becomes x − zᵢ vᵢ, with the direction as long as it is given.
    labels
        "given", or "predicted": the network's own predictions serve as labels.
    store
        Where to write the study, or to resume it; None keeps the result in memory.
    device
        "cpu", "cuda"; default CUDA where it is present.
    precision
        "float32", or "bfloat16" or "tf32" (products of changes in that, close calls computed again in float32). TF32 is of
        GPUs from CUDA capability 8.0 on alone.
    batch_size
        Images at a time, default what fits into ``memory``.
    memory
        Bytes for the sweep besides the network, as a number or "2 GB"; "auto" takes half of what is free on the device, which
        an unfinished study in ``store`` keeps. Default: "auto" on a GPU, else, and for a ``client``, "2 GB". On a CPU images
        that are read ahead are within it; for a GPU they wait on the host, 256 MiB besides.
    progress
        Show a progress bar and, first, the accuracy on 256 images of all classes, beside chance and what is recorded: an
        accuracy that is not above chance, or far under the recorded one, is warned of whether or not it is shown.
    seed
        Of the donors of ``ablation="resample"`` and of ``basis="random"``.
    output
        Which element of what the network returns has the logits: a name, an index, or a function of what it returns, whose
        result is taken for logits as it is. Default: ``logits`` of an object or dict, the first of a tuple, or the tensor;
        of probabilities, what is before the final softmax or sigmoid; of one logit z, two classes (−z/2, z/2). What was
        decided is in the log and in the attribute ``output``.
    top_k
        Count top-k accuracy, too (``topk_accuracy_drop`` …). Default 5 for networks of 100 classes or more; 0 for none.
    outcome
        A function f(logits, labels), or f(logits, labels, images), that gives a number an image: the label's probability, minus
        a loss, minus the error of what a regression reads from the logits. It takes torch tensors on the device, logits (row,
        category) in the network's precision, labels (row) and the images' positions along ``image`` (row), and gives finite
        numbers (row), each from its own row alone, a pair of unit and image; ``torch.vmap(f)`` makes such a function of one
        that takes a single image's. ``outcome_drop`` (unit, image) is f before minus after the ablation: damage is positive
        where more is better. Give ("name", f) to name it, and another name where something changes that f refers to and that is
        no number, text or array: name, code and these tell a study in ``store`` from one of another outcome. float32 only.
    screen
        A share, such as 0.01: evaluate those pairs (unit, image) alone that the gradients of the margins say may change a
        prediction, and an independent random sample of the others, which shows that no more than this share of the changed
        predictions is missed (95 %, for each layer). Default: every pair is evaluated.
    attrs
        Further attributes of the study: its name, "top1_accuracy", the accuracy that is recorded for the network …
    client
        A `distributed.Client`: its workers compute the shards, each one at a time with as many threads as the worker has,
        on a GPU each where they see any; the workers of a machine share its processors for reading. ``store`` must be on a
        file system that all of them share.

    Returns
    -------
    xarray.Dataset
        Variables of `unitlab.schema` over ``unit``, ``category``, ``image`` …; drops are fractions, positive when
        accuracy falls. For a list of layers, a dict of datasets by layer. With a basis, everything along ``unit`` is of
        directions, ``basis`` (unit, channel) holds them, and the ablation is called "random-0" (after the seed), "pca" or
        "basis-" and the start of the matrix's hash. ``removed_energy`` is what each ablation takes away.

        With ``screen``, a layer of which pairs were left out has ``evaluated`` (unit, image), and its attributes say how many,
        and what may be missed (``screen_missed_share_limit`` …). Predictions of the pairs left out are −1, their
        ``label_margin_drop`` is a first-order estimate. ``overall_drop`` estimates that of all images, with
        ``overall_drop_error``; counts by class and ``accuracy_drop`` are of the pairs evaluated, and ``accuracy_drop_missed``
        says how far the drop may be from it. `unitlab.damage` takes such a study, and gives NaN for what it cannot know.

    Raises
    ------
    UnitlabError
        Bad input; a network that fails on the images; a store that belongs to another network, image set or setting.

    Notes
    -----
    A screened layer is calibrated on a pilot, images spread over all. Pairs have a score s/(m − d): m a margin of the
    prediction, d what first order says it loses, s ‖δ‖·‖gradient‖, where the channels meet; the largest of five rivals. Of the
    pilot's pairs those with a score of 1 or more are evaluated, and an eighth of the others. How flips get fewer with the score
    gives the least score of a pair that is evaluated for sure, and the probability with which each other pair is. That sample
    bounds what is missed by an exact binomial limit (Clopper and Pearson, Biometrika 26, 1934). Where it shows too much,
    one further attempt calibrates anew, keeps what was evaluated, and draws a fresh sample. Layers with too few changed
    predictions for a bound, or of which every pair is as cheap (a linear layer behind them, forward hooks), are exact.
    Estimates of all images from a sample weigh each pair by 1/probability (Horvitz and Thompson, JASA 47, 1952).

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
    request = SweepRequest(
        layer, units=units, ablation=ablation, basis=basis, power=power, directions=directions, subtract=subtract,
        labels=labels, precision=precision, batch_size=batch_size, memory=memory, seed=seed, output=output, unit_dim=unit_dim,
        top_k=top_k, outcome=outcome,
        screen=screen,
    )  # fmt: skip
    found = run_sweep(model, images, request, store=store, device=device, progress=progress, attrs=attrs, client=client)
    return next(iter(found.values())) if request.one_layer else found


def run_sweep(
    model: nn.Module,
    images: Any,
    request: SweepRequest,
    *,
    store: str | Path | None = None,
    device: str | torch.device | None = None,
    progress: bool = True,
    attrs: dict[str, Any] | None = None,
    client: distributed.Client | None = None,
) -> dict[str, xr.Dataset]:
    """`ablate`, of a request: its datasets by layer."""
    source = images if isinstance(images, ImageSource) else image_source(images)
    if not isinstance(store, str | Path | None):
        raise UnitlabError(f"store={store!r} is not a path; give one such as 'study.zarr', or leave it out")
    if client is not None and store is None:
        raise UnitlabError(
            "client= is given without store=: workers write their shards beside the store; give store=PATH, on a file system "
            "that this process and all workers see under the same path"
        )
    source, request = as_in_store(source, store), request_in_store(request, store)
    request = resolved_memory(request, store, device, workers=client is not None)
    source.refuse_damaged()
    with exact_float32():
        here = choose_device(device, request.precision) if client is None else _device_here(device)
        plan = plan_sweep(model, source, request, here)
        sweep = _Sweep(plan, model, source, attrs or {}, progress)
        if store is None:
            return sweep.held()
        left = plans_left(plan, model, source, store)
        if not left:
            remove_left_shards(store, plan.fingerprint)
        for number, part in enumerate(left):
            replace(sweep, plan=part, checked=number > 0).stored(store, client, device)
        return sweep.opened(store)


@dataclass(frozen=True)
class _Sweep:
    """A plan carried out: its shards, and the study made of them."""

    plan: SweepPlan
    model: nn.Module
    source: ImageSource
    attrs: dict[str, Any]
    progress: bool
    checked: bool = False  # whether the baseline was said already

    def held(self) -> dict[str, xr.Dataset]:
        """The layers' datasets, in memory."""
        self._say()
        self._say_baseline()
        shards = HeldShards()
        compute_shards(self.plan, self.source, shards, self.progress)
        groups = self._groups(shards)
        return {layer.name: assemble(groups, layer.name, self.plan.ablation_name) for layer in self.plan.layers}

    def stored(self, store: str | Path, client: distributed.Client | None, device: str | torch.device | None) -> None:
        """The layers computed, here or by workers on a device of theirs, and written to a store."""
        plan, pool = self.plan, None
        if client is not None:
            pool = _worker_pool(client, device)
            plan = plan.sized_for(pool.device_type)
        plan = plan.as_begun(unfinished_fingerprint(store))
        replace(self, plan=plan)._carry_out(store, pool)

    def _carry_out(self, store: str | Path, pool: WorkerPool | None) -> None:
        self._say()
        plan, source = self.plan, self.source
        with closing(PartialStudy(store, plan.fingerprint)) as study:
            done = [index for index in study.finished() if index < len(plan.shard_bounds)]
            if done:
                log.info("going on: %d of %d images are computed already", plan.images_in(done), len(source))
            else:
                self._say_baseline()
            if pool is None:
                compute_shards(plan, source, study, self.progress)
            else:
                # workers take the axes as they are
                request = plan.request.with_axes(layer.basis for layer in plan.layers)
                pool.compute(plan, self.model, source, request, study, self.progress)
            write_study(store, self._groups(study))
            study.remove()

    def opened(self, store: str | Path) -> dict[str, xr.Dataset]:
        """The layers' datasets, from the store that has them, maybe of more units."""
        found = {layer.name: open_study(store, layer.name, self.plan.ablation_name) for layer in self.plan.layers}
        asked = {layer.name: layer.units for layer in self.plan.layers}
        return {
            name: ds if ds.sizes["unit"] == len(asked[name]) else ds.isel(unit=np.flatnonzero(np.isin(ds.unit, asked[name])))
            for name, ds in found.items()
        }

    def _say(self) -> None:
        plan = self.plan
        for layer in plan.layers:
            log.info(
                "%s (%s), %d units: %s; %s", layer.name, layer.site.text, len(layer.units), layer.layout.text,
                layer.engine.strategy,
            )  # fmt: skip
            if layer.basis is not None and layer.basis.note:
                log.info("  %d directions: %s", len(layer.basis.matrix), layer.basis.note)
            undefined = undefined_attributes(plan, layer)
            if undefined:
                log.info("  undefined for %s: %s", layer.name, undefined)
        start, stop = plan.shard_bounds[0]
        log.info(
            "on %s, %s; %d shards of %d images, %d at a time within %.1f GB", plan.network.device, plan.request.precision,
            len(plan.shard_bounds), stop - start, plan.batch_size, plan.request.budget / 1e9,
        )  # fmt: skip

    def _say_baseline(self) -> None:
        # a sweep that is part of something larger is not where people set up a network
        if self.checked or within_one_bar():
            return
        baseline = measured_baseline(self.plan, self.source, self.attrs)
        if baseline is not None:
            say_baseline(baseline, self.progress)

    def _groups(self, shards: Shards) -> dict[str, Group]:
        """The study's groups from its shards, each layer proved."""
        plan, source = self.plan, self.source
        results, certificates = results_of(plan, shards)
        root, root_attrs = root_group(plan, source, [result.images for result in results])
        groups: dict[str, Group] = {"": (root, {**root_attrs, **self.attrs})}
        self._check_that_nothing_changes_nothing()
        networks = PlainNetworks(self.model, plan.network.device, plan.network.reading)
        replacements = plan.replacements(shards.read_replacements(), len(source))
        for layer, replaced in zip(plan.layers, replacements, strict=True):
            certificate = certificates.get(layer.name)
            of_layer, (arrays, attrs) = layer_groups(plan, layer, results, root, certificate)
            if plan.request.screen is not None:
                say_certificate(layer.name, certificate, plan.request.screen)
            plain = PlainAblation(networks, source, layer.site, plan.request, layer.basis, replaced)
            sets = [[unit] for unit in layer.units]
            proof = compared_with_hooks(
                plain, sets, arrays["prediction"], sample=pairs_to_verify(len(source)), seed=0,
                outcomes=stored_outcomes(plan.scoring, arrays, root["label"]),
                evaluated=float(attrs.get("screen_evaluated_share", 1.0)),
            )  # fmt: skip
            proof.warn(layer.name)
            groups[layer.name] = of_layer
            groups[f"{layer.name}/{plan.ablation_name}"] = (arrays, {**attrs, **proof.attrs(), "null_check": "passed"})
        return groups

    def _check_that_nothing_changes_nothing(self) -> None:
        """The null check: units replaced by what they are give exactly the baseline."""
        plan = self.plan
        labels = None if plan.request.labels == "predicted" else torch.as_tensor(self.source.labels[:1])
        evaluation = plan.network.evaluate(
            plan.network.sample, labels, plan.sites, plan.needed,
            first_order=False, scoring=plan.scoring, positions=np.zeros(1, int),
        )  # fmt: skip
        base = evaluation.baseline
        for layer, value in zip(plan.layers, evaluation.site_values, strict=True):
            with torch.no_grad():
                scores = layer.engine.evaluate(base, value)
            base.host.deliver()
            if not all(torch.equal(values, base.scores[name].expand_as(values)) for name, values in scores.items()):
                raise UnitlabError(
                    f"replacing the units of {layer.name} by themselves changes the logits: the network does not give "
                    "the same result twice; put it into a state in which it does"
                )


def _worker_pool(client: distributed.Client, device: str | torch.device | None) -> WorkerPool:
    try:
        from unitlab.compute.sweep.cluster import WorkerPool
    except ModuleNotFoundError as error:
        if error.name not in ("dask", "distributed", "cloudpickle"):
            raise
        raise UnitlabError(f"client= needs {error.name}; install unitlab with its extra 'cluster'") from error
    return WorkerPool(client, device)


def _device_here(device: str | torch.device | None) -> torch.device:
    """What this process checks the results on, where workers compute on ``device``."""
    wanted = torch.device("cuda" if device is None else device)
    return torch.device(wanted.type if wanted.type != "cuda" or torch.cuda.is_available() else "cpu")
