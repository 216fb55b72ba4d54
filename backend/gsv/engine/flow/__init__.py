"""The flow's engine: mel chunks share the estimator's steps (in-flight batching)."""
