"""The semantic GPT's engine: sentences share decoding steps (continuous batching)."""
