"""sovits_v4: semantic tokens to mel. The work is in gsv.stages.sovits_v4."""

from gsv.serving.backend.adapter import StreamingModel
from gsv.stages.sovits_v4 import SoVITSStage


class TritonPythonModel(StreamingModel):
    stage = SoVITSStage
