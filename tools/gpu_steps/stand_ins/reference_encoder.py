"""reference_encoder's stand-in: the same reference for every voice, as from its cache."""

from gpu_steps.stand_in_stages import ReferenceStandIn
from gsv.serving.backend.adapter import BatchedModel


class TritonPythonModel(BatchedModel):
    stage = ReferenceStandIn
