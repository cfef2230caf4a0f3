"""Maps of units: which pixels their positions see, the maps at the size of a label image, their largest values."""
