"""Kernels in C for CPUs, compiled at the first use; PyTorch where there is no compiler."""
