"""gpt_sovits_v4: one request, one complete answer. The work is in gsv.stages.speech."""

from gsv.serving.backend.adapter import BlsModel
from gsv.stages.speech import SpeechStage


class TritonPythonModel(BlsModel):
    stage = SpeechStage
