"""semantic_gpt: phonemes to semantic tokens. The work is in gsv.stages.semantic_gpt."""

from gsv.serving.backend.adapter import StreamingModel
from gsv.stages.semantic_gpt import SemanticGPTStage


class TritonPythonModel(StreamingModel):
    stage = SemanticGPTStage
