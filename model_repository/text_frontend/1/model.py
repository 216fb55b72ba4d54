"""text_frontend: text to phoneme ids and BERT features. The work is in gsv.stages.text_frontend."""

from gsv.serving.backend.adapter import StreamingModel
from gsv.stages.text_frontend import TextFrontendStage


class TritonPythonModel(StreamingModel):
    stage = TextFrontendStage
