"""Korean: g2pk2's pronunciation rules over mecab-ko's analysis, as single letters.

It goes its own way where the models' own frontend fails:

- a number of more than 16 digits before a counted noun is read digit by digit; upstream raises;
- a number before a counted noun is replaced where it stands; upstream replaces its digits wherever
  they occur, so that of "3개, 13개" one or the other is misread, by the order of a set.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from threading import Lock
from types import ModuleType
from typing import Any

from gsv.errors import ConfigurationError
from gsv.text import hangul
from gsv.text.symbols import SILENT, is_symbol
from gsv.text.types import Phonemes

_SPACE, _UNKNOWN = "空", "停"
_WORD = re.compile(r"\w+")
_MARKS = {
    **dict.fromkeys("：；，、·", ","),
    **dict.fromkeys("。\n", "."),
    "！": "!",
    "？": "?",
    " ": _SPACE,
}
# 을 and 를 turn ㄴ at the beginning of the next word into ㄹ: a rule of g2pk2 that goes too far.
_RIEUL_AFTER_PARTICLE = re.compile("([ㅇㄹ]ㅡㄹ) ㄹ")
_LAST_LETTER = re.compile(r"([ㄱ-ㅣ])(?=\n?\Z)")
_NUMBER = re.compile(r"(\d[\d,]*)(?:([ㄱ-힣]+)/B)?")  # whether counted or not: linear time
_MOST_DIGITS = 16  # up to 천조, where g2pk2's numerals end
_DIGIT_NAMES = str.maketrans("0123456789", "영일이삼사오육칠팔구")
# A tail, an optional space, and a lead or the word's end.
_TABLE_PATTERN = re.compile(r"(?P<tail>[ᆨ-ᇿ])(?:\( \?\)(?P<lead>[ᄀ-ᅞ])|\(\\W\|\$\))")
_TAGS = re.compile("/[PJEB]")
_RULE_MODULES = ("special", "regular", "utils", "numerals")
_SPECIAL_RULES = (
    "jyeo",
    "ye",
    "consonant_ui",
    "josa_ui",
    "vowel_ui",
    "jamo",
    "rieulgiyeok",
    "rieulbieub",
    "verb_nieun",
    "balb",
    "palatalize",
    "modifying_rieul",
)
_LINK_RULES = ("link1", "link2", "link3", "link4")
_LOADING = Lock()


class Korean:
    """Korean. Rules and dictionary are read at first use; methods may be called from any thread."""

    def __init__(self) -> None:
        self._pronunciation: _Pronunciation | None = None

    def load(self) -> None:
        """Read rules and dictionary now; ConfigurationError when a package is missing."""
        self._rules()

    def normalize(self, text: str) -> str:
        """The text itself: everything happens in ``phonemes``."""
        return text

    def phonemes(self, normalized: str) -> Phonemes:
        """Letters as they sound, ``空`` for a space, ``停`` for what has no symbol."""
        spoken = self._rules().speak(hangul.spell_latin(normalized))
        letters = _RIEUL_AFTER_PARTICLE.sub(r"\1 ㄴ", hangul.letters(spoken))
        letters = _LAST_LETTER.sub(r"\1.", letters)
        mapped = (_MARKS.get(letter, letter) for letter in letters)
        symbols = tuple(char if is_symbol(char) else _UNKNOWN for char in mapped)
        return Phonemes(symbols, words=_words(normalized, symbols))

    def can_read(self, char: str) -> bool:
        """Whether a letter or digit has symbols of its own."""
        return _UNKNOWN not in self.phonemes(char).symbols

    def _rules(self) -> _Pronunciation:
        with _LOADING:
            if self._pronunciation is None:
                self._pronunciation = _Pronunciation()
            return self._pronunciation


def _words(text: str, symbols: Sequence[str]) -> tuple[tuple[str, int], ...]:
    """The text's words with their symbols; () where the two sides don't see the same words."""
    groups = [
        (spoken, len(list(group)))
        for spoken, group in groupby(symbols, lambda symbol: symbol not in SILENT)
    ]
    written = iter(words := _WORD.findall(text))
    if sum(spoken for spoken, _ in groups) != len(words):
        return ()
    return tuple((next(written) if spoken else "", count) for spoken, count in groups)


class _Pronunciation:
    """g2pk2's rules in g2pk2's order, each compiled once.

    The step that turns English words into Hangul is left out: no Latin letter reaches it.
    """

    def __init__(self) -> None:
        try:
            import mecab

            with _rule_modules() as (special, regular, utils, numerals):
                table, number_words = utils.parse_table(), numerals.process_num
        except ImportError as error:
            raise ConfigurationError(
                f"Korean needs the packages g2pk2 and python-mecab-ko; install gsv[text]: {error}"
            ) from error
        self._analysis = mecab.MeCab()
        self._annotate: Callable[[str, Any], str] = utils.annotate
        self._compose: Callable[[str], str] = utils.compose
        self._number_words: Callable[..., str] = number_words
        self._bound_nouns: str = numerals.BOUND_NOUNS
        self._idioms = list(_idioms(Path(str(utils.__file__)).with_name("idioms.txt")))
        self._special = [getattr(special, name) for name in _SPECIAL_RULES]
        self._table = [
            (_required(pattern), re.compile(pattern), spoken) for pattern, spoken, _ in table
        ]
        self._links = [getattr(regular, name) for name in _LINK_RULES]

    def speak(self, text: str) -> str:
        """The text in syllables as they sound."""
        for pattern, spoken in self._idioms:
            text = pattern.sub(spoken, text)
        annotated = _NUMBER.sub(self._counted, self._annotate(text, self._analysis))
        letters = hangul.conjoining(annotated.translate(_DIGIT_NAMES))
        for rule in self._special:
            letters = rule(letters)
        letters = _TAGS.sub("", letters)
        for (tail, lead), pattern, spoken in self._table:
            # Of some six hundred patterns, a sentence has the letters of a few.
            if tail in letters and lead in letters:
                letters = pattern.sub(spoken, letters)
        for rule in self._links:
            letters = rule(letters)
        return self._compose(letters)

    def _counted(self, match: re.Match[str]) -> str:
        number, noun = match.groups()
        if noun is None or len(number.replace(",", "")) > _MOST_DIGITS:
            return match.group()
        native = noun in self._bound_nouns
        return f"{self._number_words(number, sino=not native)}{noun}/B"


def _required(pattern: str) -> tuple[str, str]:
    """Letters without which a pattern of the table can't match; "" where it is of another form."""
    match = _TABLE_PATTERN.fullmatch(pattern)
    return (match["tail"], match["lead"] or "") if match else ("", "")


def _idioms(path: Path) -> Iterator[tuple[re.Pattern[str], str]]:
    """Lines of ``pattern===replacement``, with comments after ``#``."""
    for line in path.read_text(encoding="utf-8").splitlines():
        pattern, found, spoken = line.split("#")[0].strip().partition("===")
        if found:
            yield re.compile(pattern), spoken


@contextmanager
def _rule_modules() -> Iterator[list[ModuleType]]:
    """g2pk2's modules of rules and helpers, without g2pk2 itself.

    Importing the package downloads a dictionary of English. Its rules need none, so an empty
    package takes its place while they are imported, and is taken away again.
    """
    spec = importlib.util.find_spec("g2pk2")
    if spec is None or spec.submodule_search_locations is None:
        raise ImportError("No module named 'g2pk2'", name="g2pk2")
    is_placeholder = "g2pk2" not in sys.modules
    if is_placeholder:
        package = ModuleType("g2pk2")
        package.__path__ = list(spec.submodule_search_locations)
        sys.modules["g2pk2"] = package
    try:
        yield [importlib.import_module(f"g2pk2.{name}") for name in _RULE_MODULES]
    finally:
        if is_placeholder:
            for name in [name for name in sys.modules if name.split(".")[0] == "g2pk2"]:
                del sys.modules[name]
