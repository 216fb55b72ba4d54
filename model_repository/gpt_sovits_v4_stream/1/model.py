"""gpt_sovits_v4_stream: one request, audio in chunks. The work is in gsv.stages.stream."""

from gsv.serving.backend.adapter import BlsModel
from gsv.stages.stream import SpeechStreamStage


class TritonPythonModel(BlsModel):
    stage = SpeechStreamStage
