"""The steps of ``tools/gpu_check.py``; each file is one thing that is checked or measured."""
