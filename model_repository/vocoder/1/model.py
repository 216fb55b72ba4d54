"""vocoder: mel to a 48 kHz wave. The work is in gsv.stages.vocoder."""

from gsv.serving.backend.adapter import StreamingModel
from gsv.stages.vocoder import VocoderStage


class TritonPythonModel(StreamingModel):
    stage = VocoderStage
