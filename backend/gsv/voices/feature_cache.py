"""Features of references: kept in memory, beside the voice on disk, or computed."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

from gsv.voices import Voice
from gsv.voices.features import Arrays, FeatureStore
from gsv.voices.metrics import OWN_RECORDING, VoiceMetrics

Value = TypeVar("Value")


class FeatureCache(Generic[Value]):
    """A bounded cache before the store on disk; may be used from several threads.

    Args:
        store: on disk.
        size: values in memory, the least recently used out.
        voice_metrics: counts whether values came from memory, from disk, or were computed.
        pack: what is written of a value.
        unpack: the value of what was written.
    """

    def __init__(
        self,
        store: FeatureStore,
        size: int,
        voice_metrics: VoiceMetrics,
        pack: Callable[[Value], Arrays],
        unpack: Callable[[Arrays], Value],
    ) -> None:
        self._store = store
        self._size = size
        self._voice_metrics = voice_metrics
        self._pack = pack
        self._unpack = unpack
        self._values: OrderedDict[str, Value] = OrderedDict()
        self._lock = threading.Lock()

    def key(self, voice: Voice, own: str = "") -> str:
        """As :meth:`gsv.voices.features.FeatureStore.key`."""
        return self._store.key(voice, own)

    def find(self, voice: Voice | None, key: str) -> Value | None:
        """The value under ``key``; None says that it must be computed.

        Args:
            voice: whose reference it is; None for a recording that came with a request.
        """
        label = OWN_RECORDING if voice is None else voice.label
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                self._voice_metrics.count("features", label, detail="memory")
                return self._values[key]
        arrays = None if voice is None else self._store.load(voice, key)
        self._voice_metrics.count(
            "features", label, detail="computed" if arrays is None else "disk"
        )
        if arrays is None:
            return None
        value = self._unpack(arrays)
        self._remember(key, value)
        return value

    def keep(self, voice: Voice | None, key: str, value: Value) -> None:
        """Keep a value that has been computed, on disk too if it is a voice's."""
        self._remember(key, value)
        if voice is not None:
            self._store.save(voice, key, self._pack(value))

    def _remember(self, key: str, value: Value) -> None:
        with self._lock:
            self._values[key] = value
            while len(self._values) > self._size:
                self._values.popitem(last=False)
