"""The bundled networks: small classifiers of the AlexNet, VGG and ResNet kind, with weights trained by data/rebuild, and
SqueezeNet 1.1 with its authors' weights for ImageNet."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models import squeezenet1_1

from unitlab.errors import UnitlabError, nearest_names


class FeedForward(nn.Module):
    """``features``, flattened, then a ``classifier``."""

    features: nn.Sequential
    classifier: nn.Sequential

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.features(images), 1))


def vgg_features(blocks: Sequence[Sequence[int]], channels: int, batch_norm: bool) -> nn.Sequential:
    """Blocks of 3×3 convolutions, a max-pooling after each: conv1_1, norm1_1, relu1_1 … pool1, conv2_1 …"""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for block, widths in enumerate(blocks, 1):
        for number, width in enumerate(widths, 1):
            name = f"{block}_{number}"
            layers[f"conv{name}"] = nn.Conv2d(channels, width, 3, padding=1, bias=not batch_norm)
            if batch_norm:
                layers[f"norm{name}"] = nn.BatchNorm2d(width)
            layers[f"relu{name}"] = nn.ReLU(inplace=True)
            channels = width
        layers[f"pool{block}"] = nn.MaxPool2d(2)
    return nn.Sequential(layers)


class VGG(FeedForward):
    """Blocks of 3×3 convolutions, a max-pooling after each, two dense layers.

    Modules of ``features`` carry the research names; see `vgg_features`.

    Parameters
    ----------
    blocks
        Channels of each convolution, block by block.
    channels, categories
        Channels of the images; number of classes.
    size
        Rows and columns of the images.
    dense
        Width of fc6.
    batch_norm
        Batch norm between each convolution and its ReLU.
    dropout
        Share of fc6's outputs dropped in training.
    """

    def __init__(
        self,
        blocks: Sequence[Sequence[int]],
        *,
        channels: int,
        categories: int,
        size: int,
        dense: int,
        batch_norm: bool,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.features = vgg_features(blocks, channels, batch_norm)
        pixels = (size >> len(blocks)) ** 2
        self.classifier = nn.Sequential(
            OrderedDict(
                fc6=nn.Linear(blocks[-1][-1] * pixels, dense),
                relu6=nn.ReLU(inplace=True),
                drop6=nn.Dropout(dropout),
                fc7=nn.Linear(dense, categories),
            )
        )
        initialise(self)


class AlexNet(FeedForward):
    """Five convolutions with pooling after the first, second and fifth, three dense layers with dropout."""

    def __init__(self, widths: Sequence[int], *, channels: int, categories: int, size: int, dense: int) -> None:
        super().__init__()
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for number, width in enumerate(widths, 1):
            kernel = 5 if number <= 2 else 3
            layers[f"conv{number}"] = nn.Conv2d(channels, width, kernel, padding=kernel // 2)
            layers[f"relu{number}"] = nn.ReLU(inplace=True)
            if number in (1, 2, 5):
                layers[f"pool{number}"] = nn.MaxPool2d(2)
                size //= 2
            channels = width
        self.features = nn.Sequential(layers)
        self.classifier = nn.Sequential(
            OrderedDict(
                drop6=nn.Dropout(0.3),
                fc6=nn.Linear(channels * size * size, dense),
                relu6=nn.ReLU(inplace=True),
                drop7=nn.Dropout(0.3),
                fc7=nn.Linear(dense, dense),
                relu7=nn.ReLU(inplace=True),
                fc8=nn.Linear(dense, categories),
            )
        )
        initialise(self)


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut; the one ReLU is called twice."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample: nn.Module | None = None
        if stride != 1 or channels != width:
            self.downsample = nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))) + shortcut)


class ResNet(nn.Module):
    """A stem, four stages of two basic blocks, global average pooling, one dense layer."""

    def __init__(self, stem: int, widths: Sequence[int], *, channels: int, categories: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, stem, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(2)
        before = stem
        for number, width in enumerate(widths, 1):
            blocks = nn.Sequential(BasicBlock(before, width, 1 if number == 1 else 2), BasicBlock(width, width, 1))
            self.add_module(f"layer{number}", blocks)
            before = width
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(before, categories)
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        for number in (1, 2, 3, 4):
            x = self.get_submodule(f"layer{number}")(x)
        return self.fc(torch.flatten(self.avgpool(x), 1))


def initialise(network: nn.Module) -> None:
    """Kaiming initialisation: a plain VGG does not learn from torch's default."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "vgg_emoji": lambda: VGG(
        [(32, 32), (64, 64), (96, 96), (128, 128), (128, 64)], channels=3, categories=60, size=64, dense=192, batch_norm=True
    ),
    "resnet_emoji": lambda: ResNet(32, (32, 80, 160, 96), channels=3, categories=60),
    "alexnet_fashion": lambda: AlexNet((32, 64, 96, 96, 64), channels=1, categories=10, size=28, dense=128),
    "vgg_fashion": lambda: VGG(
        [(32, 32), (64, 64), (96, 64)], channels=1, categories=10, size=28, dense=96, batch_norm=False, dropout=0.2
    ),
    "squeezenet_imagenet": squeezenet1_1,
}


def bundled_network(name: str, weights: str | Path | None = None) -> nn.Module:
    """A bundled network with its trained weights, in eval mode, float32, on the CPU.

    Parameters
    ----------
    name
        "vgg_emoji", "resnet_emoji", "alexnet_fashion", "vgg_fashion" or "squeezenet_imagenet".
    weights
        A safetensors file; default the bundled one.

    Raises
    ------
    UnitlabError
        An unknown name; a weights file that is missing, damaged or of another network.

    Examples
    --------
    >>> from unitlab.compute.networks import bundled_network
    >>> bundled_network("vgg_fashion").features.conv3_2.out_channels
    64
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from unitlab.files import bundled_folder

    if name not in NETWORKS:
        raise UnitlabError(f"there is no bundled network '{name}'. {nearest_names(name, NETWORKS)}")
    path = Path(weights) if weights is not None else bundled_folder() / "weights" / f"{name}.safetensors"
    network = NETWORKS[name]()
    try:
        state = {key: value.float() if value.is_floating_point() else value for key, value in load_file(path).items()}
        network.load_state_dict(state)
    except (OSError, SafetensorError) as error:
        raise UnitlabError(f"the weights file {path} cannot be read ({error}); install unitlab again, or rebuild it") from error
    except RuntimeError as error:
        raise UnitlabError(f"{path} does not hold the weights of {name}: {str(error).splitlines()[-1].strip()}") from error
    return network.eval()
