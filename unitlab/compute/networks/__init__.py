"""Networks that recipes build by name: the bundled ones, and those of the Places papers that torchvision has not."""

from unitlab.compute.networks.bundled import bundled_network as bundled_network
