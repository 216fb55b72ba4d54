"""Triton's request as values of ours, and a result of ours as Triton's response."""

from __future__ import annotations

import difflib
import json
from collections.abc import Collection, Iterable
from typing import Any

import triton_python_backend_utils as pb_utils

from gsv.errors import InvalidRequest, shown
from gsv.serving.backend.bls_client import to_tensor
from gsv.serving.backend.wire import Wire

_NAME_LIMIT = 100  # characters of a caller's name that are compared with ours

# Request parameters that are Triton's and that models see.
TIMEOUT = "timeout"
REQUEST_ID = "id"  # of `generate`, whose id is a parameter like any other (2.51)


def request_id(request: Any) -> str:
    """The caller's request id, or an empty string, as for one that is not UTF-8."""
    try:
        return str(request.request_id() or _parameters(request).get(REQUEST_ID, ""))
    except (UnicodeDecodeError, InvalidRequest):  # Triton hands on any bytes
        return ""


def read_request(request: Any, wire: list[Wire]) -> dict[str, Any]:
    """The request's tensors by lower-case name, without the leading 1; absent ones are left out.

    Arrays are copied: a request's memory is gone once ``execute`` has returned.

    Raises:
        InvalidRequest: a tensor is not what it should be, or is not there. (Triton compares the
            number of inputs only.)
    """
    values: dict[str, Any] = {}
    _check_names("input", [tensor.name() for tensor in request.inputs()], wire)
    for declared in wire:
        tensor = pb_utils.get_input_tensor_by_name(request, declared.name)
        if tensor is not None:
            values[declared.field] = _read_tensor(tensor, declared)
        elif not declared.optional:
            raise InvalidRequest(f"{declared.name}: is missing; it is a required input")
    return values


def check_parameters(request: Any, wire: list[Wire], optional: Iterable[str] = ()) -> None:
    """InvalidRequest for a request parameter that nobody reads, such as a misspelt input.

    Triton's ``generate`` makes a parameter of every field that is not an input.

    Args:
        wire: the model's inputs.
        optional: names of outputs, which may be parameters; see :func:`wanted_outputs`.
    """
    optional = set(optional)
    given = _parameters(request)
    own = (TIMEOUT, REQUEST_ID)
    names = [name for name in given if name not in own and name.upper() not in optional]
    _check_names("input or request parameter", names, wire, optional)


def timeout_of(request: Any) -> float:
    """Seconds that the caller gives the request; 0 without a limit.

    Triton's ``timeout`` in microseconds: of ``infer`` an option that Triton knows, of ``generate``
    a parameter like any other (2.51).

    Raises:
        InvalidRequest: it is no number, a negative one, or one beyond all floats.
    """
    given = _parameters(request).get(TIMEOUT, request.timeout())
    try:
        seconds = int(given) / 1e6
    except (TypeError, ValueError, OverflowError):  # of infinity, or of hundreds of digits
        seconds = -1.0
    if seconds < 0:
        raise InvalidRequest.value(TIMEOUT, given, "microseconds, 0 (no limit) or more")
    return seconds


def _check_names(
    kind: str, given: Iterable[str], wire: list[Wire], beside: Iterable[str] = ()
) -> None:
    known = [*(declared.name for declared in wire), *beside]
    for name in given:
        if name not in known:
            # No name of ours is longer, and to compare 64 MB takes seconds and gigabytes.
            near = difflib.get_close_matches(name[:_NAME_LIMIT].upper(), known, n=1)
            meant = f"; the nearest is {near[0]}" if near else ""
            plain = name.isprintable() and 0 < len(name) <= _NAME_LIMIT
            raise InvalidRequest(
                f"{name if plain else shown(name)}: no such {kind}{meant}; "
                f"allowed: {', '.join(known)}"
            )


def _read_tensor(tensor: Any, declared: Wire) -> Any:
    array = tensor.as_numpy()
    if array.ndim < 1 or array.shape[0] != 1:
        raise InvalidRequest(
            f"{declared.name}: got shape {list(array.shape)}; allowed: a first dimension of 1, "
            "one utterance a request; Triton batches across requests"
        )
    if not declared.scalar:
        return array[0].copy()
    value = array.reshape(-1)[0]
    if not isinstance(value, bytes):
        return value.item()
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidRequest(
            f"{declared.name}: got bytes that are not UTF-8 (at byte {error.start}); "
            "allowed: UTF-8 text without lone surrogates"
        ) from error


def write_response(result: Any, wire: list[Wire], requested: Collection[str]) -> Any:
    """An inference response with the ``requested`` fields of ``result``, each with the leading 1.

    Fields that were not requested must not become tensors: up to 24.11 a response sender drops them
    without holding Python's lock, which corrupts its memory (python_backend #390).
    """
    values = ((getattr(result, w.field), w) for w in wire if w.name in requested)
    return pb_utils.InferenceResponse(
        output_tensors=[to_tensor(value, w) for value, w in values if value is not None]
    )


def wanted_outputs(request: Any, optional: Collection[str]) -> frozenset[str]:
    """The outputs that a request asks for.

    Triton's ``generate`` asks for all, and has no way to ask for fewer: there, and anywhere else, a
    request parameter of an ``optional`` output's name, in upper or lower case (which perf_analyzer
    makes of it), that is false leaves that one out.

    Raises:
        InvalidRequest: such a parameter is neither true nor false.
    """
    wanted = set(request.requested_output_names())
    if not wanted.isdisjoint(optional):
        for name, value in _parameters(request).items():
            if name.upper() not in optional:
                continue
            if not isinstance(value, bool):
                raise InvalidRequest.value(name, value, "true or false, as a request parameter")
            if not value:
                wanted.discard(name.upper())
    return frozenset(wanted)


def _parameters(request: Any) -> dict[str, Any]:
    try:
        given = request.parameters()
    except UnicodeDecodeError as error:
        raise InvalidRequest(
            f"request parameters: got bytes that are not UTF-8 (at byte {error.start}); allowed: "
            "UTF-8 text"
        ) from error
    return json.loads(given) if given else {}
