"""The engines of GPT, flow and vocoder: running batches, turns, noise, and kernels."""
