"""Kernels in C for CPUs, compiled on first use; everything works without them, only slower."""
