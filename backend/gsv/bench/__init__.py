"""Benchmarks of the stages in one process."""
