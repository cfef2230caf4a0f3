"""Labelled images of every origin, read once, in a repeatable order."""
