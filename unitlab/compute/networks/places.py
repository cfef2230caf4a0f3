"""The networks of published weights that torchvision does not have: Caffe's AlexNet, VGG16 by research names, and DenseNets
whose last ReLU is a module."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from torch import nn
from torchvision import models

from unitlab.compute.networks.bundled import FeedForward, vgg_features


class AlexNet(FeedForward):
    """AlexNet as Caffe has it: two groups, normalisation across channels, no padding at first; images of 227×227."""

    def __init__(self, categories: int, dense: int) -> None:
        super().__init__()

        def response_norm() -> nn.Module:
            return nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75)

        self.features = nn.Sequential(
            OrderedDict(
                conv1=nn.Conv2d(3, 96, 11, stride=4),
                relu1=nn.ReLU(inplace=True),
                pool1=nn.MaxPool2d(3, 2),
                lrn1=response_norm(),
                conv2=nn.Conv2d(96, 256, 5, padding=2, groups=2),
                relu2=nn.ReLU(inplace=True),
                pool2=nn.MaxPool2d(3, 2),
                lrn2=response_norm(),
                conv3=nn.Conv2d(256, 384, 3, padding=1),
                relu3=nn.ReLU(inplace=True),
                conv4=nn.Conv2d(384, 384, 3, padding=1, groups=2),
                relu4=nn.ReLU(inplace=True),
                conv5=nn.Conv2d(384, 256, 3, padding=1, groups=2),
                relu5=nn.ReLU(inplace=True),
                pool5=nn.MaxPool2d(3, 2),
            )
        )
        self.classifier = _dense(256 * 6 * 6, dense, categories, "fc8")


class VGG(FeedForward):
    """VGG16 with its layers called by their research names: conv1_1 … conv5_3, fc6, fc7, fc8a; images of 224×224."""

    def __init__(self, categories: int, dense: int) -> None:
        super().__init__()
        blocks = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
        self.features = vgg_features(blocks, channels=3, batch_norm=False)
        self.classifier = _dense(512 * 7 * 7, dense, categories, "fc8a")


def _dense(inputs: int, dense: int, categories: int, last: str) -> nn.Sequential:
    layers: dict[str, nn.Module] = {
        "fc6": nn.Linear(inputs, dense),
        "relu6": nn.ReLU(inplace=True),
        "drop6": nn.Dropout(),
        "fc7": nn.Linear(dense, dense),
        "relu7": nn.ReLU(inplace=True),
        "drop7": nn.Dropout(),
        last: nn.Linear(dense, categories),
    }
    return nn.Sequential(OrderedDict(layers))


def caffe_alexnet(categories: int = 365, dense: int = 4096) -> nn.Module:
    """Caffe's AlexNet; ``dense`` is the width of fc6 and fc7."""
    return AlexNet(categories, dense)


def named_vgg16(categories: int = 365, dense: int = 4096) -> nn.Module:
    """VGG16 by research names; ``dense`` is the width of fc6 and fc7."""
    return VGG(categories, dense)


def densenet(kind: str = "densenet121", **options: Any) -> nn.Module:
    """torchvision's DenseNet with ``features.relu5`` behind ``features.norm5``: there it has a function, which has no name.

    What the function does to a map without negative values is nothing.
    """
    network: nn.Module = models.get_model(kind, **options)
    features = network.get_submodule("features")
    features.add_module("relu5", nn.ReLU(inplace=True))
    return network
