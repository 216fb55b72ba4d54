"""What each model tells on the Prometheus endpoint beside Triton's own figures.

Triton takes the time of a request until ``execute`` returns. A model that answers later, through a
response sender, looks instantaneous there; these figures go on until its last response.
"""

from __future__ import annotations

import triton_python_backend_utils as pb_utils

OUTCOMES = ("answered", "refused", "cancelled", "failed")


class RequestMetrics:
    """Counters of one model: requests by outcome, and the seconds that they took.

    Every model of a server uses the same two families, told apart by the label ``model``.
    """

    def __init__(self, model: str) -> None:
        requests = pb_utils.MetricFamily(
            name="gsv_requests_total",
            description="Requests that were answered, refused, cancelled, or failed",
            kind=pb_utils.MetricFamily.COUNTER,
        )
        seconds = pb_utils.MetricFamily(
            name="gsv_request_seconds_total",
            description="Seconds from a request's arrival at the model to its last response",
            kind=pb_utils.MetricFamily.COUNTER,
        )
        self._families = (requests, seconds)  # a metric ends with its family
        self._requests = {
            outcome: requests.Metric(labels={"model": model, "outcome": outcome})
            for outcome in OUTCOMES
        }
        self._seconds = seconds.Metric(labels={"model": model})

    def observe(self, outcome: str, seconds: float) -> None:
        """Count one request that has ended."""
        self._requests[outcome].increment(1)
        self._seconds.increment(seconds)
