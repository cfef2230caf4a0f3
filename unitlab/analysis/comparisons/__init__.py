"""Layers, networks and bases of a layer beside each other, and the comparisons that come with unitlab."""
