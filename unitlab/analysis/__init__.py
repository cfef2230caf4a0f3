"""What a study says: damage and its uncertainty, attributes, correlations. numpy, scipy and xarray; no torch.

``scipy.stats`` takes half a second to import, so it is reached through scipy, which imports it where it is first used.
"""

ALPHA = 0.05  # a p or q up to here is called significant
LEVEL = 0.95  # coverage of an interval, where no other is asked for
