"""How many images a sweep takes at a time."""

from __future__ import annotations

import numpy as np

from unitlab.compute.engine.network import Network
from unitlab.compute.engine.scores import RIVALS
from unitlab.compute.engine.suffix import SuffixEngine

MOST_BATCH = 128
MOST_ELEMENTS = 2**31 - 1  # of a value: kernels count them in 32 bits


def images_at_once(network: Network, engines: list[SuffixEngine], budget: int, screen: float | None) -> int:
    """How many images at a time.

    What one evaluation holds of an image is counted in elements, and may fill half of ``budget``; the other half is the
    engines'. In the suffix that is every value, twice, since the gradient of the margin keeps it and has one as large. In the
    prefix, which has no gradient and frees what nobody reads any more, it is about the three widest values: what an
    operation reads and gives, and a branch that waits to be added. A screen has the gradients of several margins where channels
    meet. Without a graph nothing is known of the values, and 64 times the image is taken for them.
    """
    image, element = network.sample.numel(), network.sample.element_size()
    if network.graph is None:
        return max(1, min(32, budget // (64 * image * element)))
    elements = {node: int(np.prod(shape)) for engine in engines for node, shape in engine.suffix.shapes.items()}
    in_suffix = {node for engine in engines for node in engine.suffix.nodes}
    prefix = sorted(
        (elements[node] for node in network.graph.nodes if node in elements and node not in in_suffix), reverse=True
    )
    held = 2 * sum(elements.get(node, 0) for node in in_suffix) + sum(prefix[:3]) + image
    meeting = {node for engine in engines if screen and engine.screenable for node in engine.meeting}
    held += RIVALS * sum(elements.get(node, 0) for node in meeting)
    most = min(MOST_BATCH, MOST_ELEMENTS // max(elements.values(), default=1))
    return int(max(1, min(most, budget // 2 // max(1, held * element))))
