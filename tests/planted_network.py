"""Torch networks in which one unit alone serves one class by construction."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.utils.data import TensorDataset

CLASSES = 6
PER_CLASS = 30
SIZE = 10


def planted(seed: int) -> tuple[nn.Module, TensorDataset, int, np.ndarray]:
    """A network, its images, the planted unit and the class that each unit serves.

    Images show their class's 3×3 pattern somewhere in noise. Two units, with the pattern and a noisy copy of it as filters,
    serve each class, either of which would do; of the planted class the second unit is cut off from the output.
    """
    random = np.random.default_rng(seed)
    pixels, label, patterns, _ = _pictures(random)
    unit_class = random.permutation(np.repeat(np.arange(CLASSES), 2))
    category = int(random.integers(CLASSES))
    unit, cut_off = random.permutation(np.flatnonzero(unit_class == category))
    network = nn.Sequential()
    network.add_module("conv", nn.Conv2d(1, len(unit_class), 3))
    network.add_module("relu", nn.ReLU())
    network.add_module("pool", nn.AdaptiveMaxPool2d(1))
    network.add_module("flatten", nn.Flatten())
    network.add_module("fc", nn.Linear(len(unit_class), CLASSES))
    weight = np.zeros((CLASSES, len(unit_class)))
    weight[unit_class, np.arange(len(unit_class))] = 1.0
    weight[category, unit] = 2.0
    weight[category, cut_off] = 0.0
    with torch.no_grad():
        filters = patterns[unit_class] + 0.05 * random.normal(size=(len(unit_class), 3, 3))
        network.conv.weight.copy_(torch.from_numpy(filters[:, None]))
        # below it, noise gives nothing
        network.conv.bias.fill_(-0.9)
        network.fc.weight.copy_(torch.from_numpy(weight))
        network.fc.bias.zero_()
    return network.eval(), TensorDataset(torch.from_numpy(pixels).float(), torch.from_numpy(label)), int(unit), unit_class


def planted_label_images(seed: int) -> np.ndarray:
    """(image, row, column): 1 + the class where the images of `planted` show its pattern, 0 elsewhere."""
    return _pictures(np.random.default_rng(seed))[3]


def _pictures(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Pixels, labels, patterns of the classes, and where they are."""
    patterns = random.normal(size=(CLASSES, 3, 3))
    patterns /= np.linalg.norm(patterns, axis=(1, 2), keepdims=True)
    label = np.arange(CLASSES * PER_CLASS) % CLASSES
    pixels = 0.25 * random.normal(size=(len(label), 1, SIZE, SIZE))
    where = np.zeros((len(label), SIZE, SIZE), np.int64)
    for image, k in enumerate(label):
        row, column = random.integers(0, SIZE - 2, 2)
        pixels[image, 0, row : row + 3, column : column + 3] += 2 * patterns[k]
        where[image, row : row + 3, column : column + 3] = k + 1
    return pixels, label, patterns, where
