"""What a sweep is asked for: refused at once where no network could do it, said in short, sent as it is."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from unitlab import UnitlabError
from unitlab.compute.engine.directions import Basis
from unitlab.compute.sweep.request import SweepRequest


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": []}, r"layer=\[\] names no layer"),
        ({"layer": 3}, "layer=3 names no layer"),
        ({"units": []}, "names no unit"),
        ({"units": ["a"]}, "is not a list of unit numbers"),
        ({"ablation": "none"}, "valid: 'zero', 'mean', 'resample'"),
        ({"labels": "own"}, "labels='own' is not known"),
        ({"precision": "float16"}, "precision='float16' is not known"),
        ({"batch_size": 0}, "positive number of images"),
        ({"memory": "2 cows"}, "is not an amount of memory"),
        ({"memory": 1000}, "too little"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_what_nothing_could_make_valid_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UnitlabError, match=message):
        SweepRequest(**{"layer": "conv1", **options})


@pytest.mark.parametrize(
    ("memory", "amount"),
    [("2 GB", 2 * 10**9), ("64MiB", 64 << 20), (10**8, 10**8), ("0.5 gb", 5 * 10**8), ("99999999", 99999999)],
)
def test_amounts_of_memory(memory: str | int, amount: int) -> None:
    assert SweepRequest("conv1", memory=memory).budget == amount


def test_it_says_what_is_not_left_at_its_default() -> None:
    assert str(SweepRequest("conv1")) == "layer='conv1'"
    asked = SweepRequest(("conv1", "all"), units=np.array([2, 0]), ablation="mean", memory="1 GB")
    assert str(asked) == "layer=['conv1', 'all'], units=[2, 0], ablation='mean', memory='1 GB'"
    assert asked.layers == ["conv1", "all"] and not asked.one_layer and SweepRequest("conv1").one_layer
    assert "\n" not in str(SweepRequest("conv1", basis=np.eye(30)))


def test_it_is_sent_with_the_axes_as_they_are() -> None:
    names, axes = ["conv1"], Basis("random-0", np.linalg.qr(np.random.default_rng(0).standard_normal((5, 5)))[0])
    request = SweepRequest(names, basis="random", batch_size=3)
    names.append("conv2")
    sent = pickle.loads(pickle.dumps(replace(request, basis=None, axes=(axes,))))
    assert (sent.layer, sent.batch_size, sent.basis) == (["conv1"], 3, None)
    assert sent.axes[0].fingerprint == axes.fingerprint
