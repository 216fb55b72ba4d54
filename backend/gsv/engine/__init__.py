"""The engine room: sequences, scheduler, cache, sampling and noise of the batched generators."""
