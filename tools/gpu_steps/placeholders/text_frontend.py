"""text_frontend's placeholder: fixed phonemes of as many sentences as the text says."""

from gpu_steps.placeholder_stages import TextPlaceholder
from gsv.serving.backend.adapter import BatchedModel


class TritonPythonModel(BatchedModel):
    stage = TextPlaceholder
