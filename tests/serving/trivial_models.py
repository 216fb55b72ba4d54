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
instance_group [ {{ kind: KIND_CPU count: {instances} }} ]
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
    folder: Path, *, initialize: str = "pass", instances: int = 1, ensemble: bool = False
) -> Path:
    """A repository with the model ``double`` (Y = 2 X) and, if asked, the ensemble ``outer``."""
    version = folder / "double" / "1"
    version.mkdir(parents=True)
    (folder / "double" / "config.pbtxt").write_text(CONFIG.format(instances=instances))
    (version / "model.py").write_text(DOUBLE.format(initialize=initialize))
    if ensemble:
        (folder / "outer" / "1").mkdir(parents=True)
        (folder / "outer" / "config.pbtxt").write_text(ENSEMBLE)
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
