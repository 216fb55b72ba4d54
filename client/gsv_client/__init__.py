"""Client of GPT-SoVITS v4 on NVIDIA Triton."""

__version__ = "0.1.0"
