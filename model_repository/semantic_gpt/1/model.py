"""semantic_gpt: phonemes to semantic tokens. The work is in gsv.stages.semantic_gpt."""

from gsv.serving.backend.adapter import BridgedModel
from gsv.stages.semantic_gpt import SemanticGPTStage


class TritonPythonModel(BridgedModel):
    stage = SemanticGPTStage
