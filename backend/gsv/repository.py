"""Where the parts lie that come with the code: the model repository's skeleton, the voices.

In a source checkout (editable install) they stand at its root, readable by people and by Triton; a
wheel carries copies of them inside the package.
"""

from __future__ import annotations

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
