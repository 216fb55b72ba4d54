"""Words joined before the tone rules, which only look inside words (specification, section 7.3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gsv.text.chinese.segment import Word
from gsv.text.chinese.syllables import word_reading

_LONGEST_CHAIN = 3  # characters of two words joined because their third tones meet


def merge(words: Sequence[Word]) -> list[Word]:
    """不 and 一 with what they modify, repetitions, third-tone chains, and 儿."""
    merged = _join_bu(words)
    merged = _join_yi(_join_verb_yi_verb(merged))
    merged = _join_repetitions(merged)
    merged = _join_third_tones(merged, _all_third)
    merged = _join_third_tones(merged, _third_meets_third)
    return _join_er(merged)


def _join_bu(words: Sequence[Word]) -> list[Word]:
    """不 + the next word, with the next word's tag; a 不 left at the end is an adverb."""
    joined: list[Word] = []
    pending = False
    for word in words:
        text = f"不{word.text}" if pending else word.text
        pending = text == "不"
        if not pending:
            joined.append(Word(text, word.tag))
    return [*joined, Word("不", "d")] if pending else joined


def _join_verb_yi_verb(words: Sequence[Word]) -> list[Word]:
    """听 一 听 → 听一听."""
    joined: list[Word] = []
    index = 0
    while index < len(words):
        word = words[index]
        following = words[index + 1] if index + 1 < len(words) else None
        if (
            word.text == "一"
            and joined
            and following
            and joined[-1] == following == Word(following.text, "v")
        ):
            joined[-1] = Word(f"{following.text}一{following.text}", "v")
            index += 2
        else:
            joined.append(word)
            index += 1
    return joined


def _join_yi(words: Sequence[Word]) -> list[Word]:
    """一 + the next word, with 一's tag."""
    joined: list[Word] = []
    for word in words:
        if joined and joined[-1].text == "一":
            joined[-1] = Word(f"一{word.text}", joined[-1].tag)
        else:
            joined.append(word)
    return joined


def _join_repetitions(words: Sequence[Word]) -> list[Word]:
    """奶 奶 → 奶奶."""
    joined: list[Word] = []
    for word in words:
        if joined and joined[-1].text == word.text:
            joined[-1] = Word(word.text * 2, joined[-1].tag)
        else:
            joined.append(word)
    return joined


def _tones(word: Word) -> list[str]:
    return [syllable.tone for syllable in word_reading(word.text)]


def _all_third(first: Word, second: Word) -> bool:
    return all(tone == "3" for tone in _tones(first) + _tones(second))


def _third_meets_third(first: Word, second: Word) -> bool:
    return _tones(first)[-1] == "3" == _tones(second)[0]


def _join_third_tones(words: Sequence[Word], chained: Callable[[Word, Word], bool]) -> list[Word]:
    """Neighbours whose third tones meet, unless together they are long.

    A word that was just joined to the one before it takes no third; a doubled character (姐姐)
    stays apart, since its second syllable is about to lose its tone.
    """
    joined: list[Word] = []
    was_joined = False
    for index, word in enumerate(words):
        before = words[index - 1] if index else None
        was_joined = (
            before is not None
            and not was_joined
            and chained(before, word)
            and not _doubled(before.text)
            and len(before.text) + len(word.text) <= _LONGEST_CHAIN
        )
        if was_joined:
            joined[-1] = Word(joined[-1].text + word.text, joined[-1].tag)
        else:
            joined.append(word)
    return joined


def _doubled(text: str) -> bool:
    return len(text) == 2 and text[0] == text[1]


def _join_er(words: Sequence[Word]) -> list[Word]:
    """A lone 儿 belongs to the word before it."""
    joined: list[Word] = []
    for word in words:
        if joined and word.text == "儿":
            joined[-1] = Word(f"{joined[-1].text}儿", joined[-1].tag)
        else:
            joined.append(word)
    return joined
