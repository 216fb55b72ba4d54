"""Where `make venv` puts text data for an environment."""

from __future__ import annotations

import sys
from pathlib import Path


def installed_folder() -> Path:
    """The folder of this environment; it need not be there."""
    return Path(sys.prefix) / "share" / "gsv" / "text_data"
