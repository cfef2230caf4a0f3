"""The version, apart from everything that tells it."""

__version__ = "0.1.0"
