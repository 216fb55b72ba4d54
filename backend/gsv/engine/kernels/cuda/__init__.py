"""Kernels in the Triton language for NVIDIA GPUs; PyTorch where they don't apply."""
