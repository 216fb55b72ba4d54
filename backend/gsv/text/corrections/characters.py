"""Characters in the form that can be read: what is done to a whole text before it is split.

In this order: canonical composition (NFC), line breaks and spaces, invisible characters,
compatibility forms (full-width, half-width, circled, squared, ligatures, mathematical letters),
apostrophes, signs and commas inside numbers, dashes between numbers.

Full-width marks stay as they are, because upstream reads them; fractions (½) and superscripts stay
for the language that reads them.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from gsv.text.chinese.numbers import cardinal
from gsv.text.corrections.changes import Draft
from gsv.text.corrections.units import CURRENCY_SIGNS

_COMPOSED = "canonical composition"
_SPACE = "a space of another kind"
_INVISIBLE = "invisible"
_COMPATIBILITY = "compatibility form"
_NUMERAL = "a number in one character"
_APOSTROPHE = "apostrophe"
_IN_NUMBER = "a mark inside a number"

# A character and what can join it in composition: marks, and Hangul's vowels and tails.
_CLUSTER = re.compile(
    r".[\u0300-\u036f\u0483-\u0487\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0900-\u0963\u1161-\u11ff"
    r"\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\u3099\u309a\ufe20-\ufe2f]+|"
    r"[\u0340-\u0387\u0958-\u0fff\u1f00-\u212b\u2329\u232a\u2adc\uf900-\ufb4e\U0001d15e-\U0002fa1d]",
    re.DOTALL,
)
_LINE_END = re.compile("\r\n?|[\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")
_ODD_SPACE = re.compile(r"[^\S \n]|\u200b|\u2800|\u3164|\uffa0")
_UNSEEN = re.compile(
    "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u00ad\u034f\u061c\u180b-\u180e\u200c-\u200f\u202a-\u202e"
    "\u2060-\u206f\ufdd0-\ufdef\ufe00-\ufe0f\ufeff\ufff9-\ufffb\U000e0000-\U000e0fff]"
)
_FULL_WIDTH_NUMBER = re.compile(r"[０-９]{1,3}(?:，[０-９]{3})+(?![０-９])(?:．[０-９]+)?")
_POINT = re.compile(r"(?<=\d)．(?=\d)")
_TIME = re.compile(r"(?<!\d)(\d{1,2})：([0-5]\d)(?:：([0-5]\d))?(?!\d)")
_FULL_WIDTH_TILDE = re.compile(r"(?<=\d)[〜～∼](?=[-+]?\d)")
_ROMAN = re.compile("[\u2160-\u217f\u2183\u2188]+")
_ROMAN_NUMERAL = re.compile("M{0,3}(?:CM|CD|D?C{0,3})(?:XC|XL|L?X{0,3})(?:IX|IV|V?I{0,3})")
_ROMAN_VALUES = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100, "D": 500, "M": 1000}
_CIRCLED = re.compile("[\u2460-\u2473\u24ea-\u24ff\u2776-\u2793\u3251-\u325f\u32b1-\u32bf]+")
_HAN = re.compile("[\u3400-\u9fff]")
_COUNTERS = "番号章節項条図表巻回位等級"  # after which a circled number is no item of a list
_LETTER = r"A-Za-z\u00c0-\u024f"
_CURLY = re.compile(rf"(?<=[{_LETTER}])[’‘ʼ´`＇‛](?=[{_LETTER}])")
_MINUS = re.compile(rf"[−﹣－]\s?(?=[{re.escape(CURRENCY_SIGNS)}]?\d)")
_THOUSANDS = re.compile(r"(?<![\d,.])(?:\d{1,3}(?:,\d{3})+|\d{1,2}(?:,\d{2})+,\d{3})(?![\d,]*,?\d)")
_DASH = re.compile(rf"(?<=[\d%℃℉°½¼¾])\s?[–—―‒〜～∼﹣]\s?(?=[-+]?[{re.escape(CURRENCY_SIGNS)}]?\d)")
_YEN = re.compile(r"￥(?=\s?\d)|(?<=\d)￥")

# Abbreviations in one character; their Unicode decomposition is not how they are read.
_ABBREVIATIONS = {"㈱": "株式会社", "㈲": "有限会社", "㈹": "代表", "㈳": "社団法人",
                  "㈶": "財団法人", "㈻": "学校法人", "㈷": "祝", "㊑": "株式会社",
                  "㊒": "有限会社", "㍐": "ユアン", "℡": "電話", "☎": "電話",
                  "〒": "郵便番号"}  # fmt: skip
_ABBREVIATED = re.compile(f"[{''.join(_ABBREVIATIONS)}]")
# Full-width marks that upstream reads, and ^, which is a pause to it.
_KEPT = frozenset("！，．：；？（）［］｛｝～｟｠￣＾￥…‥№")
_MULTIPLE = re.compile("<(?:wide|narrow|compat|circle|square|font|small|vertical|noBreak|sub)>")
# ½ ² ™ and their like: <fraction> and <super> are left to the languages.


def correct_characters(draft: Draft, mode: str) -> None:
    """Rewrite the draft's characters.

    Args:
        draft: a text without markup.
        mode: one of ``gsv.options.LANGUAGES``; Chinese modes get numerals in Chinese.
    """
    chinese = mode.removeprefix("all_") in ("zh", "yue", "auto_yue")
    if not unicodedata.is_normalized("NFC", draft.text.text):
        draft.sub(_CLUSTER, lambda m: unicodedata.normalize("NFC", m.group()), _COMPOSED)
    draft.sub(_LINE_END, "\n", _SPACE)
    draft.sub(_ODD_SPACE, " ", _SPACE)
    draft.sub(_UNSEEN, "", _INVISIBLE)
    draft.sub(_FULL_WIDTH_NUMBER, lambda m: m.group().replace("，", ""), _IN_NUMBER)
    draft.sub(_ROMAN, lambda m: _separate(m, _roman(m.group()), chinese), _NUMERAL)
    draft.sub(
        _CIRCLED, lambda m: _separate(m, _circled(m.group()), chinese, circled=True), _NUMERAL
    )
    if mode.removeprefix("all_") in ("ja", "auto"):
        draft.sub(_ABBREVIATED, lambda m: _ABBREVIATIONS[m.group()], "abbreviation")
    draft.sub(_YEN, "¥", _COMPATIBILITY)
    draft.sub(_folding(draft.text.text), lambda m: _fold_run(m.group()), _COMPATIBILITY)
    draft.sub(_POINT, ".", _IN_NUMBER)
    draft.sub(_TIME, lambda m: m.group().replace("：", ":"), _IN_NUMBER)
    draft.sub(_CURLY, "'", _APOSTROPHE)
    draft.sub(_MINUS, "-", "minus sign")
    draft.sub(_THOUSANDS, lambda m: m.group().replace(",", ""), _IN_NUMBER)
    draft.sub(_DASH, "~", "a range of numbers")


def fold(text: str) -> str:
    """A word in the form that ``correct_characters`` gives it; for keys of a lexicon."""
    draft = Draft.of(text)
    correct_characters(draft, "auto")
    return draft.text.text


def _separate(
    match: re.Match[str], numbers: list[int], chinese: bool, *, circled: bool = False
) -> str:
    """Numbers in figures or Chinese characters, apart from digits before, between and after."""
    between = "、" if chinese else ", "
    words = [cardinal(str(number)) if chinese else str(number) for number in numbers]
    text = match.string
    before = between if text[match.start() - 1 : match.start()].isdecimal() else ""
    following = text[match.end() : match.end() + 1]
    after = between if following.isdecimal() else ""
    if not chinese and circled and _HAN.match(following) and following not in _COUNTERS:
        after = "、"  # of a list; 2次に would be read as the second time
    return f"{before}{between.join(words)}{after}"


def _roman(run: str) -> list[int]:
    """One number where the run is a numeral (ⅩⅣ: 14), else one for each character (ⅢⅣⅤ)."""
    letters = unicodedata.normalize("NFKC", run).upper()
    if _ROMAN_NUMERAL.fullmatch(letters):
        values = [_ROMAN_VALUES[letter] for letter in letters]
        following = [*values[1:], 0]
        return [sum(-v if v < n else v for v, n in zip(values, following, strict=True))]
    return [round(unicodedata.numeric(char, 0.0)) for char in run]


def _circled(run: str) -> list[int]:
    return [int(unicodedata.numeric(char)) for char in run]


def _folding(text: str) -> re.Pattern[str]:
    """A pattern of the runs of characters in the text that have a compatibility form."""
    odd = sorted(char for char in set(text) if char > "\x7f" and _fold(char) is not None)
    return re.compile(f"[{re.escape(''.join(odd))}]+") if odd else _NOTHING


_NOTHING = re.compile(r"(?!)")


def _fold_run(run: str) -> str:
    folded = "".join(_fold(char) or "" for char in run)
    return unicodedata.normalize("NFC", folded)  # half-width kana and their voicing marks


@lru_cache(maxsize=4_096)
def _fold(char: str) -> str | None:
    """What a compatibility character stands for; None for any other.

    Superscripts inside stay (㎡ is m²), which tells a unit from a number.
    """
    if char in _KEPT or "\u3131" <= char <= "\u318e":
        return None
    if char.isdecimal():
        return str(unicodedata.decimal(char))
    kind, *codes = unicodedata.decomposition(char).split() or [""]
    if not _MULTIPLE.fullmatch(kind):
        return None
    parts = [chr(int(code, 16)) for code in codes]
    if len(parts) > 1 and parts[0] == " " and unicodedata.combining(parts[1]):
        # ﾞ and ﾟ join the kana before them; other marks of their own (´, ¨) stay.
        return None
    folded = "".join(_fold(part) or part for part in parts)
    return folded.replace("\u2044", "/")
