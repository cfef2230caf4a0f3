"""Network Dissection: where units are active beside where concepts are, with a null."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from unitlab.compute.engine.layers import Site
from unitlab.compute.engine.maps.largest_values import LargestValues
from unitlab.compute.engine.maps.receptive_field import ReceptiveField, receptive_field
from unitlab.compute.engine.maps.upsampling import Upsampling
from unitlab.compute.engine.network import Network
from unitlab.compute.engine.torch_state import choose_device, exact_float32
from unitlab.compute.engine.unit_dimension import UnitLayout
from unitlab.compute.engine.user_network.outputs import Output
from unitlab.compute.images.datasets import images as image_source
from unitlab.compute.images.source import ImageSource
from unitlab.compute.sweep.activations import unit_maps
from unitlab.compute.sweep.fingerprints import sampled_images, source_fingerprints, weights_fingerprint
from unitlab.compute.sweep.memory import resolved_memory
from unitlab.compute.sweep.progress import images_bar
from unitlab.compute.sweep.request import SweepRequest
from unitlab.concepts.label_images import LabelImages, joined
from unitlab.concepts.overlap import Overlaps, StoredLabels, detectors, shuffles_of_labels
from unitlab.errors import UnitlabError
from unitlab.schema import VARIABLES, described

log = logging.getLogger("unitlab")

SHARES = {"2017": 0.005, "2020": 0.01}
SHUFFLES = 199
LEAST_SHUFFLES = 19
MOST_IMAGES = 64
MOST_KEPT = 1 << 16  # values of a unit that its threshold is found from: the share is told to 0.4 % of itself


def dissect(  # noqa: PLR0913  the public call
    model: nn.Module,
    images: Any,
    layer: str,
    concepts: Any,
    *,
    procedure: str = "2017",
    centred: bool | None = None,
    shuffles: int = SHUFFLES,
    unit_dim: int | None = None,
    device: str | torch.device | None = None,
    batch_size: int | None = None,
    memory: str | int | None = None,
    progress: bool = True,
    seed: int = 0,
    output: Output = None,
) -> xr.Dataset:
    """Which concept does each unit detect: where it is active, beside where the concept is, and is that more than chance?

    Parameters
    ----------
    model, images, layer, unit_dim, device, batch_size, memory, progress, output
        As for `unitlab.ablate`; one layer. Labels and classes are not looked at, clusters are.
    concepts
        What `unitlab.concepts.broden`, ``masks``, ``colours`` or ``foreground`` give; a function from the picture, a float
        array (channel, row, column) as the network sees it, to whole numbers (row, column), 0 for none; or a list of these.
    procedure
        ``"2017"`` (Bau, Zhou, Khosla, Oliva, Torralba): a unit is active where its map, interpolated, exceeds what 0.5 % of
        the map's own positions exceed, and counts only in images that have a concept of the same category. ``"2020"`` (Bau,
        Zhu, Strobelt, Lapedriza, Zhou, Torralba): maps are interpolated first, 1 % of the interpolated values lie above the
        threshold, and all images count.
    centred
        Whether a map's positions lie at the centres of their receptive fields, or the map fills the image. Default: 2017 yes,
        2020 no, as its program has it of all networks but its AlexNet without padding.
    shuffles
        Of the label images, for chance: 19 or more, or 0 for none.
    seed
        Of the shuffles.

    Returns
    -------
    xarray.Dataset
        Over ``unit, concept``: ``iou``, ``intersection`` and ``activated`` (pixels). Over ``concept``: ``labelled`` (pixels).
        Over ``unit``: ``activation_threshold``, ``best_iou``, ``best_iou_concept``, ``best_iou_category``, ``best_iou_p``,
        ``is_detector`` (more than chance) and ``is_netdissect_detector`` (0.04 or more). ``iou_null`` (shuffle) and
        ``iou_threshold``. Over ``rule, detector_category``: ``n_detectors``, ``n_unique_detectors``.
        `unitlab.concepts.labelled` names the units of a study by it, and ``ds.merge(found)`` has its numbers on all axes.

    Raises
    ------
    UnitlabError
        An unknown procedure, concepts that are none or that lack an image, labels that are none, and what `unitlab.ablate`
        refuses of network, images and layer.

    Notes
    -----
    IoU = intersection / (activated + labelled − intersection) over all images. Chance: whole label images change places among
    images whose label images are of equal size, clusters as a whole among such of as many images, the same for all units. The
    limit is what 95 % of the largest IoU over units and concepts stay below, so that in 5 % of the layers whose units have
    nothing to do with the concepts one passes it or more; ``best_iou_p`` is the p of that maximum.

    Images pass through the network up to the layer twice, for thresholds and for counts. The largest values of each unit are
    held, 65,536 at most; where more lie above its threshold, positions are drawn, and the attribute ``share_error`` is the
    standard error of the share, otherwise 0. Label images wait in a file without a name. Where the counts of all shuffles do
    not fit ``memory``, units are counted in parts, with another pass for each.

    Examples
    --------
    >>> import torch, unitlab
    >>> from torchvision.models import squeezenet1_1
    >>> photos = unitlab.images((torch.rand(8, 3, 64, 64), torch.arange(8)))
    >>> found = unitlab.dissect(squeezenet1_1(), photos, "features.4", unitlab.concepts.colours(photos), progress=False)
    >>> found.iou.sizes["concept"]
    11
    """
    _check(procedure, centred, shuffles)
    source = images if isinstance(images, ImageSource) else image_source(images)
    labels = joined(concepts)
    _refuse_missing(source, labels)
    request = SweepRequest(layer, batch_size=batch_size, memory=memory, seed=seed, output=output, unit_dim=unit_dim)
    request = resolved_memory(request, None, device)
    if not request.one_layer or layer == "all":
        raise UnitlabError(f"layer={layer!r}: one layer is dissected at a time; give its name, such as 'layer4'")
    with exact_float32():
        few = sampled_images(source)
        network = Network(model, choose_device(device), few, output)
        ((site, layout),) = network.located([network.site(layer)], [request.dimension(layer)])
        field = _field(network, site) if (procedure == "2017" if centred is None else centred) else None
        run = _Dissection(network, source, labels, site, layout, request, procedure, field)
        with images_bar(2 * len(source), description=f"dissection of {layer}", shown=progress) as bar, StoredLabels() as stored:
            values = run.values(stored, shuffles, bar)
    attrs = {
        "layer": layer, "site": site.text, "site_call": site.call, "channels": layout.shape[1], "unit_dim": layout.dim,
        "unit_layout": layout.text, "procedure": procedure, "share": SHARES[procedure], "share_error": run.share_error,
        "receptive_field": "the map fills the image" if field is None else str(field), "n_images": len(source),
        "shuffles": shuffles, "seed": seed, "fingerprint_weights": weights_fingerprint(model),
        **{f"fingerprint_{name}": text for name, text in source_fingerprints(source, few).items()},
    }  # fmt: skip
    return described(VARIABLES, values, attrs)


@dataclass
class _Dissection:
    """One layer of a network on images with labels."""

    network: Network
    source: ImageSource
    labels: LabelImages
    site: Site
    layout: UnitLayout
    request: SweepRequest
    procedure: str
    field: ReceptiveField | None
    share_error: float = 0.0

    def __post_init__(self) -> None:
        pixels = self.source.at([0])
        self.size = (pixels.shape[2], pixels.shape[3]) if pixels.dim() == 4 else (1, 1)
        self.upsampled = Upsampling(self.procedure, self.field, self.size, self.network.device)
        self.labelled, _ = self.labels.checked(self.source.ids[0], pixels[0].double().numpy())
        maps = unit_maps(self.network.site_values(pixels, [self.site])[0], self.layout.patches)
        self.units, self.positions = maps.shape[1], maps.shape[2] * maps.shape[3]
        # interpolated, compared, and where that holds; besides the largest values, and the sums of the shuffles
        of_image = self.units * max(self.positions, self.labelled[0:1].size or 1) * 16
        self.batch_size = self.request.batch_size or max(1, min(MOST_IMAGES, self.request.budget // 4 // of_image))

    def values(self, stored: StoredLabels, shuffles: int, bar: Any) -> dict[str, Any]:
        """Variables of the result."""
        thresholds = self._thresholds(stored, bar)
        names = self.labels.names or tuple(f"label {number}" for number in range(1, stored.most + 1))
        if not stored.most:
            raise UnitlabError("no pixel of any image has a label, so that there is nothing to detect")
        categories = np.array(self.labels.categories or [""] * len(names), dtype=object)
        category = np.unique(categories, return_inverse=True)[1]
        stands_for = shuffles_of_labels(stored.sizes, self.source.clusters, shuffles, self.request.seed)
        sums = len(stands_for) * (len(names) + category.max() + 1) * 8
        at_once = int(max(1, self.request.budget // 2 // sums))
        starts = range(0, self.units, at_once)
        bar.total = bar.total + (len(starts) - 1) * len(self.source)
        restricted, parts, largest = self.procedure == "2017", [], np.full(shuffles, -np.inf)
        for start in starts:
            units = slice(start, min(start + at_once, self.units))
            counts = Overlaps(stored, category, units.stop - start, stands_for)
            for images, _, maps in self._batches(bar):
                self._count(counts, stored, images, maps[:, units], thresholds[units])
            iou = counts.iou(restricted=restricted)
            largest = np.maximum(largest, np.nanmax(iou[1:], axis=(1, 2), initial=-np.inf))
            activated = counts.activated[0][:, category] if restricted else np.tile(counts.area[:, None], len(names))
            parts.append((iou[0], counts.intersection[0], activated))
        iou, intersection, activated = (np.concatenate(part) for part in zip(*parts, strict=True))
        texts = np.array(names, dtype=object)
        return {
            **detectors(iou, largest, texts, categories, strictly=not restricted),
            "unit": np.arange(self.units, dtype=np.int32),
            "concept": texts,
            "concept_category": categories,
            "intersection": intersection,
            "activated": activated,
            "labelled": stored.pixels(len(names)),
            "activation_threshold": thresholds.double().cpu().numpy(),
        }

    def _batches(self, bar: Any) -> Iterator[tuple[np.ndarray, Tensor, Tensor]]:
        """Places of the images, their pixels, and the layer's maps (image, unit, row, column)."""
        for pixels, places in self.source.batches(0, len(self.source), self.batch_size):
            value = self.network.site_values(pixels, [self.site])[0]
            maps = unit_maps(value, self.layout.patches)
            yield places, pixels, maps if maps.dtype == torch.float64 else maps.float()
            bar.update(len(places))

    def _thresholds(self, stored: StoredLabels, bar: Any) -> Tensor:
        """(unit,) what the share of its activations exceeds; the labels, which that pass is the first to see, are stored."""
        interpolated = self.procedure == "2020"
        size = (self.labelled.shape[1], self.labelled.shape[2])
        total = len(self.source) * (size[0] * size[1] if interpolated else self.positions)
        kept = int(min(MOST_KEPT, max(1, self.request.budget // 4 // (4 * self.units))))
        largest = LargestValues(self.units, total, SHARES[self.procedure], kept, self.request.seed)
        for places, pixels, maps in self._batches(bar):
            for place, picture in zip(places, pixels, strict=True):
                stored.append(self.labels.checked(self.source.ids[place], picture.double().numpy()))
                if interpolated and stored.sizes[-1] != size:
                    raise UnitlabError(
                        f"the label images are of {size} and, for {self.source.ids[place]!r}, of {stored.sizes[-1]}; the "
                        "procedure of 2020 takes label images of one size"
                    )
            largest.add((self.upsampled(maps, size) if interpolated else maps).transpose(0, 1).flatten(1))
        stored.finish()
        self.share_error = largest.error
        return largest.thresholds()

    def _count(self, counts: Overlaps, stored: StoredLabels, images: np.ndarray, maps: Tensor, thresholds: Tensor) -> None:
        sizes = [stored.sizes[image] for image in images]
        for size in dict.fromkeys(sizes):
            some = np.flatnonzero([one == size for one in sizes])
            active = self.upsampled(maps[torch.from_numpy(some).to(maps.device)], size) > thresholds[:, None, None]
            image, unit, pixel = (part.cpu().numpy() for part in active.flatten(2).nonzero(as_tuple=True))
            counts.add(images[some], image, unit, pixel)


def _field(network: Network, site: Site) -> ReceptiveField | None:
    """Of the layer's positions; None where the network is not captured, or the value is no map."""
    field = None if network.graph is None else receptive_field(network.graph, network.graph.calls[site.module][site.call])
    if field is None:
        log.info("%s: receptive fields are not known; the map is taken to fill the image", site.text)
    return field


def _check(procedure: str, centred: bool | None, shuffles: int) -> None:
    if procedure not in SHARES:
        raise UnitlabError(f"procedure is {procedure!r}; Network Dissection has {' and '.join(map(repr, SHARES))}")
    if centred not in (None, True, False):
        raise UnitlabError(f"centred is {centred!r}; expected True, False, or None for what the procedure does")
    if isinstance(shuffles, bool) or not isinstance(shuffles, int | np.integer) or (shuffles < LEAST_SHUFFLES and shuffles):
        raise UnitlabError(f"shuffles is {shuffles!r}; expected {LEAST_SHUFFLES} or more, such as {SHUFFLES}, or 0 for no null")


def _refuse_missing(source: ImageSource, labels: LabelImages) -> None:
    known = set(source.ids if labels.ids is None else labels.ids)
    missing = [image for image in source.ids if image not in known]
    if missing:
        raise UnitlabError(
            f"the concepts have no labels for {len(missing)} of {len(source)} images, such as {missing[0]!r}; they have some "
            f"for {', '.join(map(repr, list(labels.ids or ())[:2]))} …; unitlab.images(x.pictures, ids=x.ids) are the pictures "
            "of x = unitlab.concepts.broden(folder)"
        )
