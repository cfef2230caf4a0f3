"""What a study says: damage and its uncertainty, attributes, correlations. numpy, scipy and xarray; no torch.

``scipy.stats`` takes half a second to import, so it is reached through scipy, which imports it where it is first used.
"""
