"""reference_encoder: a reference wave to what the generators need of it.

The work is in gsv.stages.reference_encoder.
"""

from gsv.serving.backend.adapter import BatchedModel
from gsv.stages.reference_encoder import ReferenceEncoderStage


class TritonPythonModel(BatchedModel):
    stage = ReferenceEncoderStage
