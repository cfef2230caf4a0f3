"""Where published recipes name these networks: `unitlab.compute.networks.places`."""

from unitlab.compute.networks.places import caffe_alexnet as caffe_alexnet
from unitlab.compute.networks.places import named_vgg16 as named_vgg16
