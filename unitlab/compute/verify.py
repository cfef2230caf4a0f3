"""Compare a study with plain forward hooks on its network."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import nn

from unitlab import catalog
from unitlab.compute.engine.directions import Basis
from unitlab.compute.engine.layers import Site
from unitlab.compute.engine.scores import Outcome, Scoring
from unitlab.compute.engine.torch_state import choose_device, exact_float32
from unitlab.compute.engine.user_network.outputs import Output
from unitlab.compute.engine.user_network.read_network import read_network
from unitlab.compute.files.recipe_files import RecipeFiles
from unitlab.compute.images.datasets import images as image_source
from unitlab.compute.images.source import ImageSource
from unitlab.compute.sweep.fingerprints import (
    as_in_study,
    output_in_study,
    sampled_images,
    source_fingerprints,
    unit_dim_of,
    weights_fingerprint,
)
from unitlab.compute.sweep.proof import PlainAblation, PlainNetworks, Proof, compared_with_hooks, stored_outcomes
from unitlab.compute.sweep.request import SweepRequest
from unitlab.compute.sweep.study_arrays import ROOT_FINGERPRINTS
from unitlab.errors import UnitlabError, check_seed

log = logging.getLogger("unitlab")


def verify(  # noqa: PLR0913  the public call
    ds_or_name: xr.Dataset | str | Path,
    model: nn.Module | None = None,
    images: Any = None,
    *,
    sample: int = 2048,
    seed: int = 0,
    device: str | torch.device | None = None,
    output: Output = None,
    outcome: Outcome | tuple[str, Outcome] | None = None,
    progress: bool = True,
) -> Proof:
    """Compare a random sample of a study's predictions with plain forward hooks on the unmodified network.

    Parameters
    ----------
    ds_or_name
        A study, or what `unitlab.ablate_groups` gave: its name, its path, or the dataset. Of a path or a name, every byte is
        checked first.
    model, images
        The network and the images; for a study with a recipe they are found by name.
    sample
        How many (unit, image) pairs to compare; of a screened study, of the pairs that were evaluated.
    seed
        Of the sample.
    device
        Where to compute.
    output
        As it was given to `unitlab.ablate`; a study knows it, where it is no function.
    outcome
        As it was given to `unitlab.ablate`: the outcomes of the sample are compared, too. Without it they are not.
    progress
        Say first what it takes (to the log ``unitlab``), and show a bar where that is more than two seconds.

    Returns
    -------
    Proof
        ``compared``; of them ``excused`` (other than in float64, where the top-two margin is under max(1e-4 × the logits'
        range, 4 × |float32 − float64|)) and ``different``. float64 decides wherever float32 leaves a doubt.

    Raises
    ------
    UnitlabError
        A corrupt store; no network or images to compare with; a network or images other than the study's.

    Examples
    --------
    >>> import unitlab
    >>> unitlab.verify("alexnet_fashion", sample=64).different
    0
    """
    if isinstance(ds_or_name, xr.Dataset):
        ds = ds_or_name
    else:
        catalog.check(ds_or_name, progress)
        ds = catalog.load(ds_or_name)
    check_seed(seed)
    if "curve_prediction" in ds:
        raise UnitlabError("verify compares studies and groups, and these are curves; compute them anew to compare")
    if isinstance(sample, bool) or not isinstance(sample, int) or sample < 1:
        raise UnitlabError(f"sample={sample} compares nothing; give the number of (unit, image) pairs, such as 2048")
    if model is None or images is None:
        if "recipe" not in ds.attrs:
            raise UnitlabError(
                "the study has no recipe to take its network and images from; give them: verify(ds, model, images)"
            )
        files = RecipeFiles(catalog.recipe(str(ds.attrs["recipe"])), decode=ds.attrs.get("decode"))
        model = files.model() if model is None else model
        images = files.images() if images is None else images
    source = as_in_study(images if isinstance(images, ImageSource) else image_source(images), ds.attrs)
    few, asked = sampled_images(source), output_in_study(ds.attrs) if output is None else output
    fingerprints = {"weights": weights_fingerprint(model), **source_fingerprints(source, few)}
    for name, now in fingerprints.items():
        there = str(ds.attrs.get(f"fingerprint_{name}"))
        if there != now:
            raise UnitlabError(
                f"the study was computed with other {name}: with {ROOT_FINGERPRINTS[name]} than given now; give the study's own"
            )
    module, _, call = str(ds.attrs["site"]).partition("#")
    site = Site(str(ds.attrs["layer"]), module, int(call or 1) - 1, int(ds.attrs["site_call"]) + 1, unit_dim_of(ds.attrs))
    if "subtracted" in ds.attrs:
        raise UnitlabError(
            "the study's directions were taken away times codes of your own (subtract=), which it does not keep; its "
            "attributes verified_... say how it was compared with plain hooks while it was computed"
        )
    if "member" in ds:
        sets = [np.flatnonzero(row).tolist() for row in ds.member.values]
    else:
        sets = [[unit] for unit in (ds.unit.values.tolist() if "basis" not in ds else range(ds.sizes["unit"]))]
    ablation = str(ds.attrs.get("replacement", ds.attrs["ablation"]))
    request = SweepRequest(site.layer, ablation=ablation, seed=int(ds.attrs["seed"]), outcome=outcome)
    scoring = Scoring(0, request.named_outcome[1], request.named_outcome[0])
    if outcome is not None and scoring.text != ds.attrs.get("fingerprint_outcome"):
        held = f"holds the outcome {ds.attrs['fingerprint_outcome']}" if "outcome" in ds.attrs else "holds no outcome"
        raise UnitlabError(f"the study {held}, and outcome={scoring.text} is given; give the study's own, or leave it out")
    if outcome is None and "outcome" in ds.attrs:
        log.warning("the study's outcome %s is not verified: give outcome= as for the study", ds.attrs["outcome"])
    basis = Basis("", ds["basis"].values) if "basis" in ds else None
    with exact_float32():
        reading = read_network(model, choose_device(device), few, asked).reading
    if "output" in ds.attrs and reading.text != ds.attrs["output"]:
        raise UnitlabError(
            f"the study's logits are {ds.attrs['output']}, and here they would be {reading.text}; give output= as for the study"
        )
    plain = PlainAblation(PlainNetworks(model, choose_device(device), reading), source, site, request, basis)
    outcomes, share = stored_outcomes(scoring, ds, ds.label.values), float(ds.attrs.get("screen_evaluated_share", 1.0))
    return compared_with_hooks(
        plain, sets, ds.prediction, sample=sample, seed=seed, outcomes=outcomes, progress=progress, evaluated=share
    )
