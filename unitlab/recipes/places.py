"""Networks trained on Places365, with the weights that the authors of two groups of papers made public."""

from __future__ import annotations

import re

from unitlab.recipes.recipe import DENSENET_NAMES, Images, Recipe, Transform, Weights

__all__ = ["PLACES"]

DISSECT = "https://dissect.csail.mit.edu/models"
PLACES2 = "http://places2.csail.mit.edu/models_places365"

VALIDATION = Images(
    "Places365 validation",
    "https://dissect.csail.mit.edu/datasets/places_val.zip",
    "md5:593bbc21590cf7c396faac2e600cd30c",
    categories=365,
    source=(
        "36,500 photographs, a folder per class; or the folder of torchvision's Places365(split='val', small=True), with "
        "categories_places365.txt, places365_val.txt and val_256"
    ),
)
SHOWN = Transform(resize=(256, 256), crop=224)

# Caffe's AlexNet has its layers side by side, an old ResNet152 numbers them
CAFFE_NAMES = ((r"^conv", "features.conv"), (r"^fc", "classifier.fc"))
STAGE = {
    "0.0": "conv1", "0.1": "bn1", "0.3": "conv2", "0.4": "bn2", "0.6": "conv3", "0.7": "bn3",
    "1.0": "downsample.0", "1.1": "downsample.1",
}  # fmt: skip
NUMBERED_NAMES = (
    (r"^0\.", "conv1."),
    (r"^1\.", "bn1."),
    (r"^10\.1\.", "fc."),
    *(
        (rf"^{stage + 3}\.(\d+)\.0\.{re.escape(number)}\.", rf"layer{stage}.\1.{name}.")
        for stage in (1, 2, 3, 4)
        for number, name in STAGE.items()
    ),
)


def _checkpoint(network: str, megabytes: int, renamed: tuple[tuple[str, str], ...] = ()) -> Weights:
    return Weights(f"{PLACES2}/{network}_places365.pth.tar", within="state_dict", renamed=renamed, megabytes=megabytes)


PLACES = (
    Recipe(
        "alexnet_places", "AlexNet (Caffe) trained on Places365", "unitlab.compute.places_networks:caffe_alexnet", VALIDATION,
        ("conv5",), Weights(f"{DISSECT}/alexnet_places365-92864cf6.pth", "92864cf6", renamed=CAFFE_NAMES, megabytes=233),
        Transform(resize=(256, 256), crop=227),
    ),
    Recipe(
        "vgg16_places", "VGG16 trained on Places365", "unitlab.compute.places_networks:named_vgg16", VALIDATION,
        ("conv5_3",), Weights(f"{DISSECT}/vgg16_places365-0bafbc55.pth", "0bafbc55", megabytes=540), SHOWN,
    ),
    Recipe(
        "resnet152_places", "ResNet152 trained on Places365", "torchvision.models:resnet152", VALIDATION,
        ("layer4",), Weights(
            f"{DISSECT}/resnet152_places365-f928166e5c.pth", "f928166e5c", renamed=NUMBERED_NAMES, megabytes=236
        ), SHOWN, {"num_classes": 365},
    ),
    Recipe(
        "resnet18_places", "ResNet18 trained on Places365", "torchvision.models:resnet18", VALIDATION,
        ("layer4",), _checkpoint("resnet18", 45), SHOWN, {"num_classes": 365},
    ),
    Recipe(
        "resnet50_places", "ResNet50 trained on Places365", "torchvision.models:resnet50", VALIDATION,
        ("layer4",), _checkpoint("resnet50", 97), SHOWN, {"num_classes": 365},
    ),
    Recipe(
        "densenet161_places", "DenseNet161 trained on Places365", "torchvision.models:densenet161", VALIDATION,
        ("features.norm5",), _checkpoint("densenet161", 109, DENSENET_NAMES), SHOWN, {"num_classes": 365},
    ),
)  # fmt: skip
