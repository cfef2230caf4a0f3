"""What a study says: damage and its uncertainty, attributes, correlations. numpy, scipy and xarray; no torch."""
