"""Where the parts lie that come with the code: the model repository's skeleton, the voices.

In a source checkout (editable install) they stand at its root, readable by people and by Triton; a
wheel carries copies of them inside the package.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from gsv.errors import ConfigurationError

_PACKAGE = Path(__file__).resolve().parent
_CHECKOUT = _PACKAGE.parent.parent


def template_root() -> Path:
    """The folder with one ``config.pbtxt`` a model and no weights.

    Raises:
        ConfigurationError: the installation is incomplete.
    """
    for folder in (_PACKAGE / "_model_repository", _CHECKOUT / "model_repository"):
        if folder.is_dir():
            return folder
    raise ConfigurationError(
        f"the model repository's configuration is neither in {_PACKAGE} nor in {_CHECKOUT}; "
        "install the package again, or use a source checkout"
    )


@dataclasses.dataclass(frozen=True)
class ServedVoices:
    """The voices that a model repository names.

    Attributes:
        folder: the voice folder.
        default: the voice of requests that name none; "" where there is none.
    """

    folder: Path
    default: str


def served_voices(repository: Path) -> ServedVoices | None:
    """What a repository says of voices; None where it has no model that knows of them."""
    config = repository / "gpt_sovits_v4" / "config.pbtxt"
    try:
        text = config.read_text(encoding="utf-8")
    except OSError:
        return None
    folder = _parameter(text, "voice_folder")
    if folder is None:
        return None
    return ServedVoices((repository / folder).resolve(), _parameter(text, "default_voice") or "")


def _parameter(config: str, key: str) -> str | None:
    """The value of a parameter in a model's configuration."""
    found = re.search(rf'key: "{key}" value: \{{ string_value: "((?:[^"\\]|\\.)*)"', config)
    return re.sub(r"\\(.)", r"\1", found[1]) if found else None


def bundled_voices() -> Path | None:
    """The folder of voices that come with the project, None where there is none."""
    for folder in (_PACKAGE / "_voices", _CHECKOUT / "voices"):
        if folder.is_dir():
            return folder
    return None


def demo_voice() -> Path:
    """The folder of the small voice that was trained for demos: ``pretrained`` and ``voices``.

    Raises:
        ConfigurationError: this is not a source checkout; wheels don't carry it.
    """
    folder = _CHECKOUT / "demo_voice"
    if not folder.is_dir():
        raise ConfigurationError(
            f"{folder}: the demo voice is part of the source checkout only; prepare from one, or "
            "use --demo tiny"
        )
    return folder
