"""Studies whose networks and images come with unitlab."""

from __future__ import annotations

from unitlab.recipes.recipe import Images, Recipe

__all__ = ["BUNDLED"]

EMOJI = Images("emoji", "emoji", categories=60)
FASHION = Images("fashion_mnist", "fashion_mnist", categories=10)


def _bundled(name: str, title: str, images: Images, *layers: str) -> Recipe:
    return Recipe(name, title, "unitlab.compute.networks:bundled_network", images, layers, options={"name": name})


BUNDLED = (
    _bundled("vgg_emoji", "VGG style, batch norm", EMOJI, "conv5_2"),
    _bundled("resnet_emoji", "ResNet, eight basic blocks", EMOJI, "layer4"),
    _bundled("alexnet_fashion", "AlexNet style", FASHION, "conv1", "conv2", "conv3", "conv4", "conv5"),
    _bundled("vgg_fashion", "VGG style", FASHION, "conv3_2"),
)
