"""What a unit is: the concepts that it answers to, its name, its partner in another network, the classes it is important to."""

from unitlab.concepts.broden import broden as broden
from unitlab.concepts.bundled_dissections import bundled_dissection as bundled_dissection
from unitlab.concepts.bundled_tags import bundled as bundled
from unitlab.concepts.exemplars import write_exemplars as write_exemplars
from unitlab.concepts.image_tags import tags as tags
from unitlab.concepts.label_images import colours as colours
from unitlab.concepts.label_images import foreground as foreground
from unitlab.concepts.label_images import masks as masks
from unitlab.concepts.unit_labels import labelled as labelled
from unitlab.concepts.unit_labels import read_clip_dissect as read_clip_dissect
from unitlab.concepts.unit_labels import read_netdissect as read_netdissect

__all__ = [
    "broden", "bundled", "bundled_dissection", "colours", "foreground", "labelled", "masks", "read_clip_dissect",
    "read_netdissect", "tags", "write_exemplars",
]  # fmt: skip
