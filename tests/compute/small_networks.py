"""Hand-written networks, each with one thing that makes cutting a network hard."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CLASSES = 7


class FunctionalReLU(nn.Module):
    """ReLUs and pooling as functions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 12, 3)
        self.fc1, self.fc2 = nn.Linear(12 * 9, 16), nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.adaptive_avg_pool2d(torch.relu(self.conv2(x)), 3)
        return self.fc2(F.relu(self.fc1(torch.flatten(x, 1))))


class InPlaceReLU(nn.Module):
    """ReLUs that overwrite what the convolution returned, and a value that is used before and after."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.relu1, self.relu2, self.fc = nn.ReLU(inplace=True), nn.ReLU(inplace=True), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        before = self.conv1(x)
        shortcut = before * 0.5
        self.relu1(before)
        x = self.conv2(before)
        x += shortcut + before
        F.relu(x, inplace=True)
        x = self.relu2(F.avg_pool2d(x, 2) - 0.1)
        x.tanh_().mul_(2.0)
        return self.fc(x.mean([2, 3]))


class SharedReLU(nn.Module):
    """One ReLU module, called three times."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 10, 3)
        self.relu, self.fc1, self.fc2 = nn.ReLU(inplace=True), nn.Linear(10, 9), nn.Linear(9, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.conv2(self.relu(self.conv1(x))))
        return self.fc2(self.relu(self.fc1(x.amax((2, 3)))))


class Concatenations(nn.Module):
    """Branches that are concatenated, one of which does not see the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.left, self.right = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 5, 1), nn.Conv2d(6, 4, 3, padding=1)
        self.norm, self.mix, self.fc = nn.BatchNorm2d(15), nn.Conv2d(15, 8, 1), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        joined = torch.cat([self.left(x), x, self.right(x)], 1)
        return self.fc(F.relu(self.mix(F.relu(self.norm(joined)))).flatten(2).mean(2))


class ChannelShuffle(nn.Module):
    """A shuffle, a split and a depthwise convolution between the layer and what mixes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.depthwise = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 16, 3, groups=8)
        self.mix, self.fc = nn.Conv2d(8, 6, 1), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.sigmoid(self.conv(x))
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, c, h, w)
        left, right = self.depthwise(x).chunk(2, 1)
        return self.fc(F.relu(self.mix(left + 0.1) * self.mix(right)).mean((2, 3)))


class ResponseNorm(nn.Module):
    """Local response normalisation, which mixes without being linear."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.relu1, self.norm = nn.Conv2d(3, 8, 3), nn.ReLU(), nn.LocalResponseNorm(5, alpha=0.5)
        self.conv2, self.fc = nn.Conv2d(8, 8, 3, groups=2), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.conv2(F.max_pool2d(self.norm(self.relu1(self.conv1(x))), 2)))
        return self.fc(F.adaptive_avg_pool2d(x, 1).squeeze(-1).squeeze(-1))


class SqueezeExcite(nn.Module):
    """A gate that every channel has a say in."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv2d(3, 12, 3), nn.SiLU(inplace=True)
        self.squeeze, self.excite = nn.Conv2d(12, 4, 1), nn.Conv2d(4, 12, 1)
        self.project, self.fc = nn.Conv2d(12, 8, 1), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.conv(x))
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(x, 1)))))
        return self.fc(F.hardswish(self.project(gate * x)).mean((2, 3)))


class DominantUnit(nn.Module):
    """Unit 2 is a hundred thousand times as large as the others: subtraction alone would cancel."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu, self.pool = nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2)
        self.fc1, self.fc2 = nn.Linear(32, 24), nn.Linear(24, CLASSES)
        with torch.no_grad():
            self.conv.weight[2] *= 1e5
            self.conv.bias[2] = 1e5

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.relu(self.fc1(self.pool(self.relu(self.conv(x))).flatten(1))))


class OneChannel(nn.Module):
    """A layer of one unit."""

    def __init__(self) -> None:
        super().__init__()
        self.narrow, self.wide, self.fc = nn.Conv2d(3, 1, 3), nn.Conv2d(1, 6, 3), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.wide(F.relu(self.narrow(x)))).mean((2, 3)))


class ChannelsLast(nn.Module):
    """A block that works on (image, row, column, channel), as those of ConvNeXt and Swin do."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, stride=2), nn.LayerNorm(8)
        self.expand, self.act, self.reduce = nn.Linear(8, 12), nn.GELU(), nn.Linear(12, 8)
        self.mix, self.fc = nn.Conv2d(8, 10, 3), nn.Linear(10, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).permute(0, 2, 3, 1)
        x = x + self.reduce(self.act(self.expand(self.norm(x))))
        return self.fc(F.relu(self.mix(x.permute(0, 3, 1, 2))).mean((2, 3)))


class Tokens(nn.Module):
    """A transformer of one block: a class token before 4 × 4 patches, and attention with two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.cls = nn.Conv2d(3, 8, 4, stride=4), nn.Parameter(torch.randn(1, 1, 8))
        self.norm1, self.qkv, self.attention_out = nn.LayerNorm(8), nn.Linear(8, 24), nn.Linear(8, 8)
        self.norm2, self.fc1, self.act, self.fc2 = nn.LayerNorm(8), nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8)
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], 1)
        q, k, v = self.qkv(self.norm1(x)).reshape(x.shape[0], -1, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape)
        x = x + self.attention_out(attended)
        x = x + self.fc2(self.act(self.fc1(self.norm2(x))))
        return self.head(self.norm(x)[:, 0])


class Windows(nn.Module):
    """Windows in the dimension of the images, a part of a split that is used later, and a value that depends on sizes alone."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.value = nn.Conv2d(3, 16, 4, stride=4), nn.Linear(8, 8)
        self.gate, self.out, self.fc = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.stem(x).flatten(2).transpose(1, 2).chunk(2, 2)
        images, tokens, width = parts[0].shape
        gate = self.gate(parts[0].reshape(images * 4, tokens // 4, width))
        value = self.value(parts[0]).reshape(images * 4, tokens // 4, width)
        late = torch.arange(tokens, device=x.device).float() / tokens
        x = F.relu(self.out((value * torch.sigmoid(gate)).reshape(images, tokens, width)))
        return self.fc((x + parts[1] * late.reshape(-1, 1)).mean(1))


class Untraceable(nn.Module):
    """Control flow that depends on the images."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu, self.fc = nn.Conv2d(3, 8, 3), nn.ReLU(inplace=True), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.conv(x))
        if float(x.sum()) < -1:
            return x.mean((2, 3))[:, :CLASSES]
        return self.fc(x.mean((2, 3)))


# layer names: an early, a middle and the last site of each
SITES = {
    FunctionalReLU: ("conv1", "conv2", "fc1"),
    InPlaceReLU: ("conv1", "conv2", "relu2"),
    SharedReLU: ("relu#1", "relu#2", "fc1"),
    Concatenations: ("stem", "left", "mix"),
    ChannelShuffle: ("conv", "depthwise"),
    ResponseNorm: ("conv1", "relu1", "conv2"),
    SqueezeExcite: ("conv", "squeeze", "project"),
    DominantUnit: ("conv", "relu", "fc1"),
    OneChannel: ("narrow", "wide"),
    ChannelsLast: ("stem", "norm", "act"),
    Tokens: ("patches", "qkv", "act"),
    Windows: ("stem", "value", "out"),
    Untraceable: ("conv", "relu", "fc"),
}
