"""Model repositories of a few lines, for tests of the server's launcher."""

from __future__ import annotations

import http.client
import json
from pathlib import Path

CONFIG = """
backend: "python"
max_batch_size: 0
input [ {{ name: "X" data_type: TYPE_FP32 dims: [ -1 ] }} ]
output [ {{ name: "Y" data_type: TYPE_FP32 dims: [ -1 ] }} ]
instance_group [ {groups} ]
"""

DOUBLE = """
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        {initialize}

    def execute(self, requests):
        tensors = [pb_utils.get_input_tensor_by_name(r, "X") for r in requests]
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor("Y", x.as_numpy() * 2)]) for x in tensors
        ]
"""

# Answers later, from a thread, and needs another model for it; a thread of its own tells Triton
# what is under way, as in StreamingModel.
SLOW = """
import threading, time
import triton_python_backend_utils as pb_utils
from gsv.serving.backend.metrics import RequestMetrics


class TritonPythonModel:
    def initialize(self, args):
        self.metrics = RequestMetrics(args["model_name"], args["model_instance_name"])
        self.closed = threading.Event()
        self.watch = threading.Thread(target=self.tell)
        self.watch.start()

    def tell(self):
        while not self.closed.wait(0.05):
            self.metrics.flush()

    def finalize(self):
        self.closed.set()
        self.watch.join()

    def execute(self, requests):
        for request in requests:
            self.metrics.begin()
            x = pb_utils.get_input_tensor_by_name(request, "X").as_numpy().copy()
            threading.Thread(target=self.answer, args=(x, request.get_response_sender())).start()

    def answer(self, x, sender):
        time.sleep(2.0)
        call = pb_utils.InferenceRequest(
            model_name="double", requested_output_names=["Y"], inputs=[pb_utils.Tensor("X", x)]
        ).exec()
        if call.has_error():
            answer = pb_utils.InferenceResponse(error=pb_utils.TritonError(call.error().message()))
        else:
            y = pb_utils.get_output_tensor_by_name(call, "Y").as_numpy()
            answer = pb_utils.InferenceResponse([pb_utils.Tensor("Y", y)])
        sender.send(answer, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        self.metrics.observe("answered", 2.0)
"""

ENSEMBLE = """
platform: "ensemble"
max_batch_size: 0
input [ { name: "X" data_type: TYPE_FP32 dims: [ -1 ] } ]
output [ { name: "Y" data_type: TYPE_FP32 dims: [ -1 ] } ]
ensemble_scheduling {
  step [
    {
      model_name: "double"
      model_version: -1
      input_map { key: "X" value: "X" }
      output_map { key: "Y" value: "Y" }
    }
  ]
}
"""


def write_repository(
    folder: Path,
    *,
    initialize: str = "pass",
    instances: int = 1,
    apart: bool = False,
    ensemble: bool = False,
    slow: bool = False,
) -> Path:
    """A repository with the model ``double`` (Y = 2 X) and, if asked, two that call it.

    ``apart``: each instance is a group that is like no other. ``outer`` is an ensemble; ``slow``
    answers after two seconds.
    """
    version = folder / "double" / "1"
    version.mkdir(parents=True)
    groups = f"{{ kind: KIND_CPU count: {instances} }}"
    if apart:
        each = '{{ kind: KIND_CPU count: 1 host_policy: "p{}" }}'
        groups = ", ".join(each.format(n) for n in range(instances))
    (folder / "double" / "config.pbtxt").write_text(CONFIG.format(groups=groups))
    (version / "model.py").write_text(DOUBLE.format(initialize=initialize))
    if ensemble:
        (folder / "outer" / "1").mkdir(parents=True)
        (folder / "outer" / "config.pbtxt").write_text(ENSEMBLE)
    if slow:
        (folder / "slow" / "1").mkdir(parents=True)
        (folder / "slow" / "config.pbtxt").write_text(CONFIG.format(groups="{ kind: KIND_CPU }"))
        (folder / "slow" / "1" / "model.py").write_text(SLOW)
    return folder


def infer(address: str, model: str, values: list[float]) -> tuple[int, object]:
    """Status and the values of Y (or the error's text) for one HTTP request."""
    tensor = {"name": "X", "datatype": "FP32", "shape": [len(values)], "data": values}
    connection = http.client.HTTPConnection(address, timeout=20)
    try:
        connection.request("POST", f"/v2/models/{model}/infer", json.dumps({"inputs": [tensor]}))
        response = connection.getresponse()
        answer = json.loads(response.read())
    finally:
        connection.close()
    if response.status != 200:
        return response.status, answer["error"]
    return response.status, answer["outputs"][0]["data"]
