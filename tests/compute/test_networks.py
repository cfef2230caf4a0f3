"""The bundled networks: shapes, weights, and the accuracy that is recorded beside them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import unitlab
from unitlab import UnitlabError
from unitlab.compute.networks.bundled import NETWORKS, BasicBlock, bundled_network
from unitlab.files import bundled_folder

WEIGHTS = bundled_folder() / "weights"
SHAPES = {
    "vgg_emoji": ((3, 64, 64), 60, "features.conv5_2"),
    "resnet_emoji": ((3, 64, 64), 60, "layer4"),
    "vgg_fashion": ((1, 28, 28), 10, "features.conv3_2"),
    "alexnet_fashion": ((1, 28, 28), 10, "features.conv5"),
    "squeezenet_imagenet": ((3, 227, 227), 1000, "features.12"),
}
TRAINED_HERE = [name for name in SHAPES if not name.endswith("imagenet")]


def test_every_network_is_described_here():
    assert set(SHAPES) == set(NETWORKS)


@pytest.mark.parametrize("name", SHAPES)
def test_network(name):
    shape, categories, layer = SHAPES[name]
    network = bundled_network(name)
    assert not network.training
    assert all(value.dtype == torch.float32 for value in network.state_dict().values() if value.is_floating_point())
    assert all(torch.isfinite(value).all() for value in network.state_dict().values())
    units = []
    network.get_submodule(layer).register_forward_hook(lambda module, given, out: units.append(out.shape[1]))
    with torch.no_grad():
        assert network(torch.zeros(2, *shape)).shape == (2, categories)
    assert 64 <= units[0] <= 96 or units == [512]
    assert (WEIGHTS / f"{name}.safetensors").stat().st_size < 5e6


@pytest.mark.parametrize("name", TRAINED_HERE)
def test_recorded_accuracy_is_what_the_weights_reach(name):
    source = unitlab.images("emoji" if name.endswith("emoji") else "fashion_mnist")
    network = bundled_network(name).to(memory_format=torch.channels_last)
    record = json.loads((WEIGHTS / f"{name}.json").read_text())
    assert record["test_images"] == len(source)
    with torch.no_grad():
        predicted = [network(batch).argmax(1).numpy() for batch, _ in source.batches(0, len(source), 32)]
    top1 = (np.concatenate(predicted) == source.labels).mean()
    # a tie in float32 may fall the other way on another machine
    assert abs(top1 - record["top1_accuracy"]) < 5e-4
    assert top1 > record["pixel_nearest_neighbour_accuracy"] + 0.05


def test_a_basic_block_calls_one_relu_twice():
    block = BasicBlock(4, 8, 2).eval()
    calls = []
    block.relu.register_forward_hook(lambda *given: calls.append(None))
    block(torch.zeros(1, 4, 8, 8))
    assert len(calls) == 2


def test_unknown_name():
    with pytest.raises(UnitlabError, match="'vgg_emoji'"):
        bundled_network("vgg_emojis")


def test_damaged_and_foreign_weights(tmp_path):
    path = tmp_path / "w.safetensors"
    with pytest.raises(UnitlabError, match="cannot be read"):
        bundled_network("vgg_fashion", path)
    path.write_bytes((WEIGHTS / "vgg_fashion.safetensors").read_bytes()[:5000])
    with pytest.raises(UnitlabError, match="cannot be read"):
        bundled_network("vgg_fashion", path)
    with pytest.raises(UnitlabError, match="does not hold the weights of vgg_fashion"):
        bundled_network("vgg_fashion", WEIGHTS / "alexnet_fashion.safetensors")
    state = load_file(WEIGHTS / "vgg_fashion.safetensors")
    state.pop("classifier.fc7.bias")
    save_file(state, path)
    with pytest.raises(UnitlabError, match=r"fc7\.bias"):
        bundled_network("vgg_fashion", path)
