"""semantic_gpt_engine: the running batch of the semantic GPT.

The work is in gsv.stages.semantic_gpt.
"""

from gsv.serving.backend.adapter import StreamingModel
from gsv.stages.semantic_gpt import SemanticGPTEngineStage


class TritonPythonModel(StreamingModel):
    stage = SemanticGPTEngineStage
