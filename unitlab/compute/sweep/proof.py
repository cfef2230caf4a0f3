"""The proof that a study carries: a random sample of its pairs, computed again with plain forward hooks."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from unitlab.compute.engine.ablation import Replacement, donor_of_image
from unitlab.compute.engine.directions import Basis
from unitlab.compute.engine.hooks import recorded_output, replaced_output
from unitlab.compute.engine.layers import Site
from unitlab.compute.engine.scores import NOT_EVALUATED, Scoring
from unitlab.compute.engine.torch_state import exact_float32
from unitlab.compute.engine.user_network.outputs import Reading
from unitlab.compute.engine.user_network.working_copy import floating_dtype, working_copy
from unitlab.compute.images.source import ImageSource
from unitlab.compute.sweep.progress import say
from unitlab.compute.sweep.request import SweepRequest

log = logging.getLogger("unitlab")

IMAGES_AT_ONCE = 32
FEWEST_VERIFIED, MOST_VERIFIED = 32, 256
# A pair whose float32 margin is above this share of the logits' range cannot come out otherwise in float64.
DOUBTFUL = 1e-3
# Outcomes are compared with those of so many logits beside the hooks', off by this share of their range, as margins are.
DOUBTFUL_OUTCOME, NEARBY = 1e-4, 8


@dataclass(frozen=True)
class Proof:
    """How many (unit, image) pairs were compared, excused (a tie within float noise) and different; of how many the outcome is
    none that logits within float noise give, where there is one.
    """

    compared: int
    excused: int
    different: int
    first_difference: str = ""
    outcomes_different: int | None = None

    def attrs(self) -> dict[str, Any]:
        """As attributes of the ablation's group."""
        found = {f"verified_{name}": getattr(self, name) for name in ("compared", "excused", "different")}
        return found if self.outcomes_different is None else {**found, "verified_outcomes_different": self.outcomes_different}

    def warn(self, layer: str) -> None:
        """Say in the log what differs."""
        for number, what in ((self.different, "pairs"), (self.outcomes_different, "outcomes")):
            if number:
                log.warning("%s: %d of %d %s differ from plain hooks", layer, number, self.compared, what)


@dataclass(frozen=True)
class StoredOutcomes:
    """What a study has of an outcome: drops (set, image), unablated values and labels (image), and what gives them."""

    scoring: Scoring
    drop: Any
    baseline: np.ndarray
    label: np.ndarray

    def limits(self, logits: Tensor, images: np.ndarray, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """(pair): the least and the largest outcome of logits (pair, category) that differ from these within float noise."""
        random, found = torch.Generator().manual_seed(0), []
        where, labels = (
            torch.as_tensor(given, device=logits.device) for given in (images, self.label[images].astype(np.int64))
        )
        noise = DOUBTFUL_OUTCOME * (logits.amax(1, keepdim=True) - logits.amin(1, keepdim=True))
        for number in range(NEARBY + 1):
            signs = 2 * torch.randint(2, logits.shape, generator=random).to(logits) - 1
            found.append(self.scoring.of(logits + noise * signs * (number > 0), labels, where, dtype)["outcome"].double())
        nearby = torch.stack(found)
        # what is stored is rounded, as a difference of numbers of this size
        rounding = 1e-6 * (nearby[0].abs() + torch.as_tensor(np.abs(self.baseline[images])).to(nearby))
        return nearby.amin(0) - rounding, nearby.amax(0) + rounding

    def ablated(self, rows: np.ndarray, images: np.ndarray) -> np.ndarray:
        """(pair): the outcome under the ablation."""
        return self.baseline[images].astype(np.float64) - _stored(self.drop, rows, images)


class PlainNetworks:
    """The network as it is, in its own precision and in float64, copied when first needed: one copy does for all layers."""

    def __init__(self, model: nn.Module, device: torch.device, reading: Reading) -> None:
        self.model, self.device, self.reading = model, device, reading

    @cached_property
    def own(self) -> nn.Module:
        """In its own precision, mostly float32."""
        return self.reading.of(working_copy(self.model, self.device))

    @cached_property
    def float64(self) -> nn.Module:
        """The oracle."""
        return self.reading.of(working_copy(self.model, self.device, dtype=torch.float64))


@dataclass(frozen=True)
class PlainAblation:
    """The ablation of one layer by plain forward hooks, which is what a sweep's results must equal.

    ``replaced`` is what units are replaced by; None works it out anew with hooks, which for means takes all images. With
    ``basis``, directions are ablated.
    """

    networks: PlainNetworks
    source: ImageSource
    site: Site
    request: SweepRequest
    basis: Basis | None = None
    replaced: Replacement | None = None


def compared_with_hooks(
    plain: PlainAblation,
    sets: Sequence[Sequence[int]],
    prediction: Any,
    *,
    sample: int,
    seed: int,
    outcomes: StoredOutcomes | None = None,
    progress: bool = False,
    evaluated: float = 1.0,
) -> Proof:
    """Compare ``sample`` pairs of ``prediction`` (set, image) with hooks that silence sets of units: in float32, and in
    float64 where that is close. Outcomes differ where no logits within float noise of the hooks' give them. With ``progress``
    what it takes is said first, and a bar shows how far it is. Where a share of the pairs alone is ``evaluated``, they are of
    those.
    """
    networks, source = plain.networks, plain.source
    random = np.random.default_rng(seed)
    pairs = min(int(sample / evaluated), len(sets) * len(source))
    flat = random.choice(len(sets) * len(source), size=pairs, replace=False)
    if evaluated < 1:
        known = _stored(prediction, flat % len(sets), flat // len(sets)) != NOT_EVALUATED
        flat = flat[known][:sample]
        pairs = len(flat)
    flat = np.sort(flat)
    images, rows = flat // len(sets), flat % len(sets)
    silenced = [list(sets[row]) for row in rows]
    stored = torch.as_tensor(_stored(prediction, rows, images), device=networks.device).long()
    ablated = None if outcomes is None else torch.as_tensor(outcomes.ablated(rows, images), device=networks.device)
    with exact_float32(), torch.no_grad():
        at_once = _images_at_once(networks.own, source, plain.request.budget)
        if progress:
            say(_cost(plain, pairs), shown=True)
        hooked = _Hooked(plain, networks.own, at_once)
        doubtful = []
        parts = [slice(start, start + at_once) for start in range(0, pairs, at_once)]
        batches = zip(parts, source.stream(np.unique(images[part]) for part in parts), strict=True)
        for part, batch in tqdm(batches, "verify", len(parts), unit=" batches", delay=2, disable=not progress):
            pixels = batch.pixels[np.searchsorted(batch.positions, images[part])]
            top = hooked.logits(pixels, images[part], silenced[part])
            margin, spread = _margin_and_spread(top)
            doubt = (stored[part] != top.argmax(1)) | (margin < DOUBTFUL * spread)
            if outcomes is not None and ablated is not None:
                least, largest = outcomes.limits(top, images[part], hooked.dtype)
                doubt |= (ablated[part] < least) | (ablated[part] > largest)
            doubtful += [(part.start + int(place), top[place].double()) for place in doubt.nonzero().flatten()]
        excused = different = outcomes_different = 0
        difference = ""
        if doubtful:
            exact = _Hooked(plain, networks.float64, 1)
        for pair, in_float32 in tqdm(doubtful, "in float64", unit=" pairs", delay=2, disable=not progress):
            image = images[pair : pair + 1]
            logits = exact.logits(source.at(image), image, silenced[pair : pair + 1])[0]
            if outcomes is not None and ablated is not None:
                least, largest = outcomes.limits(logits[None], image, hooked.dtype)
                if not bool((least <= ablated[pair]) & (ablated[pair] <= largest)):
                    outcomes_different += 1
                    difference = difference or f"{_named(silenced[pair])}, image {source.ids[int(image[0])]!r}"
            margin, spread = _margin_and_spread(logits)
            # of logits that are exactly equal, as when all units are silent, either class is right
            if logits[stored[pair]] == logits.max():
                continue
            if margin < torch.maximum(1e-4 * spread, 4 * (logits - in_float32).abs().max()):
                excused += 1
                continue
            different += 1
            difference = difference or f"{_named(silenced[pair])}, image {source.ids[int(images[pair])]!r}"
    return Proof(pairs, excused, different, difference, None if outcomes is None else outcomes_different)


def stored_outcomes(scoring: Scoring, arrays: Mapping[Any, Any], label: np.ndarray) -> StoredOutcomes | None:
    """The outcomes that are among a study's variables; None where none was asked for."""
    if scoring.outcome is None:
        return None
    return StoredOutcomes(scoring, arrays["outcome_drop"], np.asarray(arrays["baseline_outcome"]), np.asarray(label))


def _cost(plain: PlainAblation, pairs: int) -> str:
    """What comparing so many pairs takes, from a plain evaluation of a few images."""
    few = plain.source.at(np.arange(min(4, len(plain.source))))
    model = plain.networks.own
    begin = time.perf_counter()
    model(few.to(*_device_and_dtype(model))).argmax(1).cpu()
    each = (time.perf_counter() - begin) / len(few)
    count, means = pairs, ""
    if plain.replaced is None and plain.request.ablation == "mean":
        count, means = pairs + len(plain.source), f", and {len(plain.source):,} for the units' means"
    return (
        f"comparing {pairs:,} (unit, image) pairs: a plain evaluation each{means}, about {max(count * each, 1):,.0f} s, and "
        "close ones again in float64"
    )


def pairs_to_verify(images: int) -> int:
    """How many pairs of a layer every study is verified with: one for four images, which costs a quarter of a pass."""
    return min(MOST_VERIFIED, max(FEWEST_VERIFIED, images // 4))


def _named(units: list[int]) -> str:
    return f"unit {units[0]}" if len(units) == 1 else f"units {units}"


def _margin_and_spread(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Top-two margin and range of logits (…, category)."""
    top = logits.topk(2, dim=-1).values
    return top[..., 0] - top[..., 1], logits.amax(-1) - logits.amin(-1)


def _images_at_once(model: nn.Module, source: ImageSource, memory: int) -> int:
    """How many images a plain evaluation takes within ``memory``, where a few of the widest values are held at a time."""
    widest = 1

    def measure(_module: nn.Module, _inputs: object, output: object) -> None:
        nonlocal widest
        if isinstance(output, Tensor):
            widest = max(widest, output.numel() * output.element_size())

    handles = [module.register_forward_hook(measure) for module in model.modules()]
    try:
        model(source.at([0]).to(*_device_and_dtype(model)))
    finally:
        for handle in handles:
            handle.remove()
    return max(1, min(IMAGES_AT_ONCE, memory // (4 * widest)))


def _device_and_dtype(model: nn.Module) -> tuple[torch.device, torch.dtype]:
    return next((tensor.device for tensor in model.parameters()), torch.device("cpu")), floating_dtype(model)


def _stored(variable: Any, rows: np.ndarray, images: np.ndarray) -> np.ndarray:
    """A variable (set, image) of the pairs, read unit by unit."""
    found = np.empty(len(rows), variable.dtype)
    for row in np.unique(rows):
        mine = rows == row
        found[mine] = np.asarray(variable[int(row) : int(row) + 1])[0][images[mine]]
    return found


class _Hooked:
    """The network in one precision, its site's output replaced by hooks; by the values given, or by its own."""

    def __init__(self, plain: PlainAblation, model: nn.Module, images_at_once: int) -> None:
        self.model, self.site, self.basis = model, plain.site, plain.basis
        self.device, self.dtype = plain.networks.device, _device_and_dtype(model)[1]
        self.donor: np.ndarray | None = None
        source, ablation, replaced = plain.source, plain.request.ablation, plain.replaced
        if replaced is not None:
            self.values, self.donor = replaced.values.to(self.device), replaced.donor
        elif ablation == "mean":
            total, count = torch.zeros(()), 0
            for batch, _ in source.batches(0, len(source), images_at_once):
                value = self._own_output(batch).double()
                total = total + value.sum((0, *range(2, value.dim())))
                count += value.numel() // value.shape[1]
            self.values = (total / count).reshape(1, -1, *[1] * (value.dim() - 2))
        elif ablation == "resample":
            donors, self.donor = donor_of_image(len(source), plain.request.seed)
            self.values = torch.cat([self._own_output(batch.pixels) for batch in source.stream([i] for i in donors)])
        else:
            self.values = torch.zeros_like(self._own_output(source.at([0])))

    def logits(self, batch: Tensor, positions: np.ndarray, sets: list[list[int]]) -> Tensor:
        """Logits of images and their positions, each with the units of its own set replaced, together."""
        batch = batch.to(self.device, self.dtype)
        values = self.values if self.donor is None else self.values[torch.as_tensor(self.donor[positions])]

        def replace(output: Tensor) -> Tensor:
            out, instead = output.clone(), values.expand_as(output).to(output.dtype)
            for row, units in enumerate(sets):
                if self.basis is None:
                    out[row, units] = instead[row, units]
                else:
                    out[row] = self.basis.projected(output[row : row + 1], instead[row : row + 1], units)[0]
            return out

        with replaced_output(self.model, self.site, replace):
            return self.model(batch)

    def _own_output(self, batch: Tensor) -> Tensor:
        with recorded_output(self.model, self.site) as recorded:
            self.model(batch.to(self.device, self.dtype))
        return recorded[0]
