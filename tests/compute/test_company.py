"""Networks whose logits for an image depend on the images that share its batch, or on chance, are refused, the layer named."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
import xarray as xr
from small_networks import CLASSES
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import unitlab
from unitlab import UnitlabError
from unitlab.compute.images.source import ImageSource


def source(count: int = 12) -> ImageSource:
    torch.manual_seed(3)
    pictures = TensorDataset(torch.randn(count, 3, 17, 17), torch.arange(count) % CLASSES)
    return unitlab.images(pictures, categories=[f"class {k}" for k in range(CLASSES)])


class Small(nn.Module):
    def __init__(self, norm: nn.Module, drop: nn.Module | None = None, head: nn.Module | None = None) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.conv1, self.norm, self.conv2 = nn.Conv2d(3, 8, 3), norm, nn.Conv2d(8, 10, 3)
        self.drop, self.head, self.fc = drop or nn.Identity(), head or nn.Identity(), nn.Linear(10, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv2(F.relu(self.norm(self.conv1(x))))).mean((2, 3))
        return self.fc(self.drop(self.head(x)))


class AlwaysTraining(Small):
    """As networks that adapt themselves to the images do."""

    def train(self, mode: bool = True) -> AlwaysTraining:
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.Dropout):
                module.train()
        return self


def ablate(model: nn.Module, images: ImageSource | None = None, **options: Any) -> xr.Dataset:
    return unitlab.ablate(model.eval(), images or source(), "conv1", progress=False, device="cpu", **options)


BATCH = "depend on the images that share its batch, through "


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            Small(nn.BatchNorm2d(8, track_running_stats=False)),
            rf"{BATCH}'norm' \(BatchNorm2d, without running statistics\); give a network that uses running statistics",
        ),
        (
            AlwaysTraining(nn.BatchNorm2d(8)),
            rf"{BATCH}'norm' \(BatchNorm2d, left in train mode by the network's own train\(\)\)",
        ),
        (
            AlwaysTraining(nn.Identity(), head=nn.BatchNorm1d(10)),
            r"takes two images and fails on one alone .*eval\(\) leaves 'head' in train mode",
        ),
        (
            AlwaysTraining(nn.Identity(), nn.Dropout(0.5)),
            r"not give the same result twice: 'drop' \(Dropout, left in train mode by the network's own train\(\)\)",
        ),
    ],
)
@pytest.mark.parametrize("count", [1, 12])
def test_a_network_in_which_images_meet_is_refused(model: nn.Module, message: str, count: int) -> None:
    state = {name: value.clone() for name, value in model.state_dict().items()}
    for ask in (
        lambda: ablate(model, source(count)),
        lambda: unitlab.estimate(model.eval(), source(count), "conv1", device="cpu"),
    ):
        with pytest.raises(UnitlabError, match=message):
            ask()
    # batch norm in train mode writes its statistics: not the user's
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_images_that_meet_in_a_function_are_noticed() -> None:
    class Centred(Small):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x - x.mean(0))

    with pytest.raises(UnitlabError, match=r"through 'conv1' \(Conv2d\)"):
        ablate(Centred(nn.Identity()))

    class Late(Small):
        def forward(self, x: Tensor) -> Tensor:
            z = super().forward(x)
            return z - 1e-3 * z.mean(0)

    with pytest.raises(UnitlabError, match="the logits of an image depend on the images that share its batch; give a network"):
        ablate(Late(nn.Identity()))


@pytest.mark.parametrize("norm", [nn.BatchNorm2d(8), nn.InstanceNorm2d(8), nn.GroupNorm(2, 8), nn.LocalResponseNorm(3)])
def test_norms_of_each_image_are_taken(norm: nn.Module) -> None:
    assert ablate(Small(norm)).attrs["verified_different"] == 0


def test_float_noise_is_no_dependence() -> None:
    """Logits that differ far less from class to class than they are large: float32 leaves a doubt, float64 decides."""
    model = Small(nn.BatchNorm2d(8))
    with torch.no_grad():
        model.fc.weight *= 1e-6
        model.fc.bias.fill_(3.0)
    assert ablate(model).attrs["null_check"] == "passed"
