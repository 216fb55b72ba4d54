"""semantic_gpt: phonemes to semantic tokens. The work is in gsv.stages.semantic_gpt."""

from gsv.serving.backend.adapter import BlsModel
from gsv.stages.semantic_gpt import SemanticGPTStage


class TritonPythonModel(BlsModel):
    stage = SemanticGPTStage
