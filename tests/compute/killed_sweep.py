"""A small sweep of many shards that runs in a process of its own, to be killed."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from small_networks import CLASSES, FunctionalReLU
from torch.utils.data import TensorDataset

import unitlab
from unitlab.compute.sweep import plan


def sweep_to(store: str) -> None:
    """Fifteen shards of four images, mean ablation of one layer."""
    plan.SHARD_IMAGES = 4
    os.fsync = lambda _: None  # a killed process loses nothing that the kernel has; this is for power cuts, and slow
    torch.set_num_threads(1)
    torch.manual_seed(5)
    model = FunctionalReLU().eval()
    pictures = TensorDataset(torch.randn(60, 3, 17, 17), torch.arange(60) % CLASSES)
    images = unitlab.images(pictures, categories=[f"class {k}" for k in range(CLASSES)])
    options = {"store": Path(store), "batch_size": 4, "ablation": "mean", "device": "cpu", "progress": False}
    unitlab.ablate(model, images, "conv1", **options)
