"""voices: lists the voices there are. The work is in gsv.stages.voices."""

from gsv.serving.backend.adapter import BatchedModel
from gsv.stages.voices import VoicesStage


class TritonPythonModel(BatchedModel):
    stage = VoicesStage
