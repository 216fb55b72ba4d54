"""The log of this package, handed to Triton's."""

from __future__ import annotations

import logging

import triton_python_backend_utils as pb_utils

_package_log = logging.getLogger("gsv")


class TritonLogHandler(logging.Handler):
    """Hands what this package logs to the server's log, with the model's name before it."""

    def __init__(self, model: str) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter(f"{model}: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record, at the server's level that is nearest."""
        try:
            text = self.format(record)
            if record.levelno >= logging.ERROR:
                pb_utils.Logger.log_error(text)
            elif record.levelno >= logging.WARNING:
                pb_utils.Logger.log_warn(text)
            else:
                pb_utils.Logger.log_info(text)
        except Exception:  # as logging asks of a handler: never raise
            self.handleError(record)

    def attach(self) -> None:
        """Take over what this package logs."""
        _package_log.addHandler(self)
        _package_log.setLevel(logging.INFO)
        _package_log.propagate = False

    def detach(self) -> None:
        """Give it back."""
        _package_log.removeHandler(self)
        _package_log.propagate = True
