"""What a unit is: the concepts that it answers to, its name, its partner in another network, the classes it is important to."""

from unitlab.concepts.bundled_tags import bundled as bundled
from unitlab.concepts.image_tags import tags as tags

__all__ = ["bundled", "tags"]
