"""CUDA devices that exist in name only, so that code for GPUs runs where there is none.

``pretend_cuda()`` makes torch believe in CUDA devices. Their tensors say ``cuda:0``, compute on the
host, and are refused wherever a real device would refuse them. Found are: tensors on the wrong
device, every place where the host waits for the device, what a capture forbids, graphs that write
over each other, memory that two streams or a stream and the host use in no order, and memory that
isn't given back. Not found: anything about real kernels, their speed and their rounding.
"""

from pretend_cuda.faults import DeviceFault, IllegalCapture, Misplaced, Race, StaleMemory
from pretend_cuda.installation import KERNELS_VARIABLE, pretend_cuda
from pretend_cuda.log import Log, Site, Wait
from pretend_cuda.machine import Machine

__all__ = [
    "KERNELS_VARIABLE",
    "DeviceFault",
    "IllegalCapture",
    "Log",
    "Machine",
    "Misplaced",
    "Race",
    "Site",
    "StaleMemory",
    "Wait",
    "pretend_cuda",
]
