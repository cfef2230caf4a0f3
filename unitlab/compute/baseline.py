"""What a batch gives when nothing is ablated, which every engine starts from."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from unitlab.compute.capture import Values

__all__ = ["Baseline"]


@dataclass
class Baseline:
    """The unablated network on one batch: values of graph nodes, labels and baseline predictions (image)."""

    images: Tensor
    values: Values
    labels: Tensor
    prediction: Tensor
    margin: Tensor
