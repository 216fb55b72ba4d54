"""reference_encoder's placeholder: the same reference for every voice, as from its cache."""

from gpu_steps.placeholder_stages import ReferencePlaceholder
from gsv.serving.backend.adapter import BatchedModel


class TritonPythonModel(BatchedModel):
    stage = ReferencePlaceholder
