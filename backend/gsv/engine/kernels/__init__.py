"""Kernels in Triton's language for GPUs; each does what a plain function in ``models/`` does."""
