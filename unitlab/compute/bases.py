"""Orthogonal bases of a layer's channels, whose axes are ablated as units are."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unitlab.errors import UnitlabError, nearest_names

__all__ = ["Basis", "basis_of", "over_channels"]

NAMES = ("random", "pca")
# A basis in float32 is orthogonal to about 1e-6.
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Basis:
    """``matrix`` (direction, channel), float64, with orthonormal rows, and the name that the ablation goes by."""

    name: str
    matrix: np.ndarray

    @cached_property
    def fingerprint(self) -> str:
        return hashlib.sha256(np.ascontiguousarray(self.matrix).tobytes()).hexdigest()

    def coordinates(self, value: Tensor) -> Tensor:
        """Coordinates (image, direction, …) of values (image, channel, …)."""
        return over_channels(torch.as_tensor(self.matrix).to(value), value)

    def projected(self, value: Tensor, replaced: Tensor, directions: Iterable[int]) -> Tensor:
        """x − Σ ((x − y)·v) v over some directions v, for the values x and what replaces them, y (image, channel, …)."""
        some = torch.as_tensor(self.matrix[list(directions)]).to(value)
        return value - over_channels(some.t(), over_channels(some, value - replaced))


def over_channels(matrix: Tensor, value: Tensor) -> Tensor:
    """``matrix`` (row, channel) times values (image, channel, …), or (image, channel · position) → (image, row, …)."""
    flat = value.reshape(len(value), matrix.shape[1], -1)
    found = matrix @ flat
    return found.reshape(len(value), -1) if value.dim() == 2 else found.reshape(len(value), len(matrix), *value.shape[2:])


def basis_of(given: Any, channels: int, seed: int, layer: str, site_values: Callable[[], Iterable[Tensor]]) -> Basis:
    """The basis that `unitlab.ablate` was given.

    Parameters
    ----------
    given
        "random" (uniform over the orthogonal matrices), "pca" (principal axes of the activations over all images and
        positions, by descending variance), or an orthogonal matrix (direction, channel).
    channels
        Of the layer.
    seed
        Of the random basis.
    site_values
        Gives the layer's values (image, channel, …) batch by batch; asked for "pca" alone.

    Raises
    ------
    UnitlabError
        An unknown name, a matrix of another shape, not finite, or not orthogonal.
    """
    if isinstance(given, str):
        if given not in NAMES:
            raise UnitlabError(f"basis={given!r} is not known. {nearest_names(given, NAMES)} Or give a matrix")
        if given == "random":
            return Basis(f"random-{seed}", _random(channels, seed))
        return Basis("pca", _principal_axes(channels, site_values()))
    try:
        matrix = np.array(given.detach().cpu() if isinstance(given, Tensor) else given, dtype=np.float64, order="C")
    except (TypeError, ValueError) as error:
        raise UnitlabError(
            f"basis is a {type(given).__name__}; give 'random', 'pca' or a matrix (direction, channel)"
        ) from error
    if matrix.shape != (channels, channels):
        raise UnitlabError(
            f"basis has the shape {matrix.shape}; layer '{layer}' has {channels} channels, so that a basis of it is "
            f"({channels}, {channels}): a direction in each row (`units` picks some of them)"
        )
    if not np.isfinite(matrix).all():
        raise UnitlabError("basis holds NaN or infinite values")
    worst = float(np.abs(matrix @ matrix.T - np.eye(channels)).max())
    if worst > TOLERANCE:
        raise UnitlabError(
            f"basis is not orthogonal: rows have products up to {worst:.2g} away from those of unit vectors at right angles; "
            "numpy.linalg.qr(matrix.T)[0].T makes them so"
        )
    basis = Basis("", matrix)
    return Basis(f"basis-{basis.fingerprint[:8]}", matrix)


def _random(channels: int, seed: int) -> np.ndarray:
    """Rows of an orthogonal matrix from the uniform distribution (Stewart 1980)."""
    q, r = np.linalg.qr(np.random.default_rng(seed).standard_normal((channels, channels)))
    signs = np.where(np.diag(r) < 0, -1.0, 1.0)
    return np.ascontiguousarray((q * signs).T)


def _principal_axes(channels: int, batches: Iterable[Tensor]) -> np.ndarray:
    """Eigenvectors of the covariance over images and positions, the largest entry of each positive."""
    total, product, count = np.zeros(channels), np.zeros((channels, channels)), 0
    for value in batches:
        flat = value.double().flatten(2) if value.dim() > 2 else value.double().unsqueeze(2)
        rows = flat.transpose(0, 1).reshape(channels, -1)
        total += rows.sum(1).cpu().numpy()
        product += (rows @ rows.t()).cpu().numpy()
        count += rows.shape[1]
    covariance = product / count - np.outer(total / count, total / count)
    axes = np.linalg.eigh(covariance)[1][:, ::-1].T
    largest = axes[np.arange(channels), np.abs(axes).argmax(1)]
    return np.ascontiguousarray(axes * np.where(largest < 0, -1.0, 1.0)[:, None])
