"""What every stage has in common: settings from the model's parameters, and the two shapes of work.

A stage takes frozen request dataclasses and gives frozen result dataclasses. Their field names are
the lower-case tensor names of the model's ``config.pbtxt``: a field with a default is an optional
input. Arrays come and go as numpy arrays, without the wire's leading dimension 1: what one stage
tells another is small (a mel has 40 KB a second), and a GPU's memory on the wire would cost every
model a CUDA context and a wait for whatever the GPU is doing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

from gsv import __version__
from gsv.checkpoints.manifest import fingerprint
from gsv.engine.give_way import GiveWay
from gsv.errors import ConfigurationError, GsvError
from gsv.reply import Reply
from gsv.voices import VoiceFolder

Tensors = dict[str, Any]  # by wire name; scalars and texts as plain values
SettingsType = TypeVar("SettingsType", bound="Settings")

_KINDS = {int: "an integer", float: "a number", bool: "true or false", str: "a text"}
_TRUE, _FALSE = {"true", "yes", "1"}, {"false", "no", "0"}


@dataclasses.dataclass(frozen=True)
class Settings:
    """A model's parameters in ``config.pbtxt``: text there, typed here; unknown keys are errors."""

    threads: int = 0  # torch's threads on a CPU; 0 keeps torch's choice

    @classmethod
    def parse(cls: type[SettingsType], parameters: Mapping[str, str]) -> SettingsType:
        """From parameter strings; ConfigurationError names the key, the value and the type."""
        kinds = {f.name: type(f.default) for f in dataclasses.fields(cls)}
        unknown = sorted(set(parameters) - set(kinds))
        if unknown:
            raise ConfigurationError(f"unknown parameters {unknown}; allowed: {sorted(kinds)}")
        return cls(**{k: _convert(k, v, kinds[k]) for k, v in parameters.items()})


def _convert(key: str, text: str, kind: type) -> Any:
    try:
        if kind is bool:
            if text.lower() not in _TRUE | _FALSE:
                raise ValueError(text)
            return text.lower() in _TRUE
        return kind(text)
    except ValueError as error:
        raise ConfigurationError(
            f"parameter {key}: got {text!r}; it must be {_KINDS[kind]}"
        ) from error


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a stage finds its files and runs its tensors, and who else is there.

    Attributes:
        folder: the version folder of the model.
        device: ``cpu`` or ``cuda:N``.
        first_audio_awaited: whether a listener anywhere on this server waits for first audio.
        is_awaited: callers may wait for this stage already, so what can be done later is.
    """

    folder: Path
    device: str = "cpu"
    first_audio_awaited: Callable[[], bool] = lambda: False
    is_awaited: bool = False

    def give_way(self) -> GiveWay:
        """When an engine here lets whole answers rest; on a GPU it doesn't."""
        return GiveWay(self.first_audio_awaited) if self.device == "cpu" else GiveWay()

    @property
    def repository(self) -> Path:
        """The model repository that the version folder lies in."""
        return self.folder.parent.parent

    def of_model(self, model: str) -> Path:
        """The version folder of another model of the repository: the newest that there is.

        Raises:
            ConfigurationError: there is none.
        """
        folder = self.repository / model
        versions = [path for path in folder.glob("*") if path.name.isdigit() and path.is_dir()]
        if not versions:
            raise ConfigurationError(f"{folder}: no version of the model {model} is there")
        return max(versions, key=lambda path: int(path.name))

    def identity(self, *settings: object) -> str | None:
        """Stands for the weights here, the kind of device, the settings and this package.

        None where the folder has no manifest, so that nobody knows for sure.
        """
        weights = fingerprint(self.folder)
        if weights is None:
            return None
        kind = self.device.partition(":")[0]
        return "|".join([weights, kind, *map(str, settings), __version__])

    def voices(self, folder: str, default: str) -> VoiceFolder:
        """The voice folder at ``folder``, relative to the repository."""
        return VoiceFolder((self.repository / folder).resolve(), default)


class BatchStage(Protocol):
    """A stage that answers a batch at once; a bad request gets an error, the others answers."""

    request_type: ClassVar[type[Any]]
    result_type: ClassVar[type[Any]]
    settings_type: ClassVar[type[Settings]]

    def __init__(self, place: Place, settings: Any) -> None: ...
    def warm_up(self) -> None: ...
    def run_batch(self, requests: Sequence[Any]) -> list[Any | GsvError]: ...
    def close(self) -> None: ...


@dataclasses.dataclass(frozen=True)
class Load:
    """The state of a running batch; ``steps`` and ``rows`` count since the start."""

    running: int
    waiting: int
    steps: int
    rows: int


class AsyncStage(Protocol):
    """A stage with a running batch of its own: requests join and leave while others go on.

    ``submit`` returns at once with a function that cancels the work; ``load`` is None for a stage
    that only waits for others.
    """

    request_type: ClassVar[type[Any]]
    result_type: ClassVar[type[Any]]
    settings_type: ClassVar[type[Settings]]

    def __init__(self, place: Place, settings: Any) -> None: ...
    def warm_up(self) -> None: ...
    def submit(self, request: Any, reply: Reply) -> Callable[[], None]: ...
    def load(self) -> Load | None: ...
    def close(self) -> None: ...
