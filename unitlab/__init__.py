"""unitlab: which single units of an image classifier matter, and to which classes."""

__version__ = "0.1.0"
