"""A network as a graph: by torch.fx (`traced`), else by torch.export (`exported`)."""

from unitlab.compute.engine.capture.exported import exported as exported
from unitlab.compute.engine.capture.graph import NetworkGraph as NetworkGraph
from unitlab.compute.engine.capture.graph import Values as Values
from unitlab.compute.engine.capture.memory import DROPOUT as DROPOUT
from unitlab.compute.engine.capture.memory import module_output as module_output
from unitlab.compute.engine.capture.traced import CannotCapture as CannotCapture
from unitlab.compute.engine.capture.traced import Noise as Noise
from unitlab.compute.engine.capture.traced import capture as capture
