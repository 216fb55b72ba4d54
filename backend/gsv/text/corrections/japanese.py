"""Japanese: amounts, units, dates and signs in words, and kanji that OpenJTalk does not know.

OpenJTalk takes a kanji that its dictionary lacks for a mark, and says nothing. Such a character is
replaced by another form of it that the dictionary has (髙 → 高), and an iteration mark by what it
repeats; what is left is not read, and is told.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import cache, lru_cache
from typing import Any

from gsv.text.chinese.words import read_data
from gsv.text.corrections.changes import Draft
from gsv.text.corrections.units import (
    CURRENCIES,
    CURRENCY,
    DEGREE,
    DEGREES,
    MIXED,
    UNIT,
    UNITS,
    VULGAR,
)

_NUMBER = r"\d+(?:\.\d+)?"
_SCALE = "(?P<scale>[万億兆千百]*)"
_MONEY_BEFORE = re.compile(
    rf"(?P<sign>(?<![\d)A-Za-z])-)?(?P<unit>{CURRENCY})\s?(?P<minus>-?)(?P<amount>{_NUMBER})\s?{_SCALE}円?"
)
_MONEY_AFTER = re.compile(
    rf"(?P<sign>(?<![\d)A-Za-z])-)?(?P<minus>)(?<![\d.])(?P<amount>{_NUMBER})\s?{_SCALE}\s?(?P<unit>{CURRENCY})"
)
_DATE = re.compile(r"(?<![\d./-])(\d{4})([-/.])(0?[1-9]|1[0-2])\2(0?[1-9]|[12]\d|3[01])(?![\d./-])")
_TIME = re.compile(r"(?<![\d:])([01]?\d|2[0-3]):([0-5]\d)(?::([0-5]\d))?(?![\d:])")
_TELEPHONE = re.compile(r"(?<![\d-])(0\d{1,4})-(\d{1,4})-(\d{3,4})(?![\d-])")
_MEASURE = re.compile(
    rf"(?<![A-Za-z\d.])(?P<amount>{_NUMBER})\s?(?:(?P<degree>{DEGREE})|(?P<unit>{UNIT}))"
)
_PERCENT = re.compile(r"\s?%")
_PER_MILLE = re.compile(r"\s?‰")
_FRACTION = re.compile(r"(?<![\d/.-])(\d+)/(\d+)(?![\d/])")
_RANGE = re.compile(r"(?<=[\d%度円時分秒日月年])\s?[~〜～]\s?(?=[-¥$€£]?\d)")
_NEGATIVE = re.compile(r"(?<![\d%)A-Za-z-])-(?=\d)")
_RATIO = re.compile(r"(?<=\d)[:：](?=\d)")
_KANA = "\u3041-\u3096\u30a1-\u30fa"
_WAVE = re.compile(
    rf"(?<=[{_KANA}])()[〜～](?=[{_KANA}\u3400-\u9fff\W]|$)|(?<=[\u3400-\u9fff])[〜～](?=[\u3400-\u9fff])"
)
_DECIMAL = re.compile(r"(?<=\d)\.(?=\d)")
_SIGNS = {
    "&": "アンド", "＆": "アンド", "@": "アットマーク", "+": "プラス", "＋": "プラス",
    "×": "かける", "÷": "わる", "=": "イコール", "＝": "イコール", "±": "プラスマイナス",
    "≈": "約", "≒": "約", "≥": "以上", "≤": "以下", "≠": "ノットイコール", "∞": "無限大",
    "√": "ルート", "%": "パーセント", "→": "、", "№": "ナンバー", "²": "の二乗", "³": "の三乗",
    "♯": "シャープ", "#": "シャープ", "℡": "電話",
}  # fmt: skip
_SIGN = re.compile(f"[{re.escape(''.join(_SIGNS))}]")
_DASH = re.compile("(?:[—–―‒]+|--+)")
_QUOTE = re.compile('[「」『』（）()［］\\[\\]【】〈〉《》“”"‘’〔〕｛｝{}＜＞<>*＊_|｜]')
_ELLIPSIS = re.compile("[…‥]+")
_GREEK_NAMES = """
    アルファ ベータ ガンマ デルタ イプシロン ゼータ イータ シータ イオタ カッパ ラムダ ミュー ニュー
    クサイ オミクロン パイ ロー シグマ シグマ タウ ウプシロン ファイ カイ プサイ オメガ
"""
_GREEK = dict(zip("αβγδεζηθικλμνξοπρςστυφχψω", _GREEK_NAMES.split(), strict=True))
_GREEK_LETTER = re.compile("[α-ωΑ-Ω]")
_KANA_REPEATED = re.compile("([\u3041-\u3096\u30a1-\u30fa])([ゝヽゞヾ])")
_KANJI_REPEATED = re.compile("(?<=([\u3400-\u9fff\U00020000-\U000323af]))[〻々]|〻")


def correct_japanese(draft: Draft) -> None:
    """Rewrite a Japanese segment, kanji apart."""
    sub = draft.sub
    sub(_DATE, lambda m: f"{m[1]}年{int(m[3])}月{int(m[4])}日", "a date")
    sub(_TELEPHONE, lambda m: "、".join(_spaced(part) for part in m.groups()), "a telephone number")
    sub(_TIME, _time, "a time")
    sub(MIXED, _mixed, "a fraction")
    sub(_FRACTION, lambda m: f"{m[2]}分の{m[1]}", "a fraction")
    sub(_MONEY_BEFORE, _money, "an amount of money")
    sub(_MONEY_AFTER, _money, "an amount of money")
    sub(_MEASURE, _measure, "a unit")
    sub(_PERCENT, "パーセント", "a share")
    sub(_PER_MILLE, "パーミル", "a share")
    sub(_RANGE, "から", "a range of numbers")
    sub(_RATIO, "対", "a ratio")
    sub(_WAVE, lambda m: "から" if m[1] is None else "ー", "a wave dash")
    sub(_NEGATIVE, "マイナス", "a negative number")
    sub(_DECIMAL, "点", "a decimal point")
    sub(_SIGN, lambda m: _SIGNS[m.group()], "a sign")
    sub(_GREEK_LETTER, lambda m: _GREEK[m.group().lower()], "a Greek letter")
    sub(_DASH, "、", "a dash")
    sub(_KANA_REPEATED, _kana_repeated, "an iteration mark")


_DIGIT_NAMES = ("ゼロ", "イチ", "ニー", "サン", "ヨン", "ゴー", "ロク", "ナナ", "ハチ", "キュー")


def _spaced(figures: str) -> str:
    return "".join(_DIGIT_NAMES[int(figure)] for figure in figures)


def _time(match: re.Match[str]) -> str:
    hours, minutes, seconds = match[1], match[2], match[3]
    words = f"{int(hours)}時"
    if minutes != "00" or seconds:
        words += f"{int(minutes)}分"
    return words + (f"{int(seconds)}秒" if seconds else "")


def _mixed(match: re.Match[str]) -> str:
    above, below = VULGAR[match[2]]
    return f"{match[1]}と{below}分の{above}" if match[1] else f"{below}分の{above}"


def _money(match: re.Match[str]) -> str:
    negative = "マイナス" if match["sign"] or match["minus"] else ""
    return f"{negative}{match['amount']}{match['scale']}{CURRENCIES[match['unit']].ja}"


def _measure(match: re.Match[str]) -> str:
    name = DEGREES[match["degree"]] if match["degree"] else UNITS[match["unit"]]
    return f"{match['amount']}{name.ja}"


def _kana_repeated(match: re.Match[str]) -> str:
    """The kana again; voiced for ゞ and ヾ where it can be."""
    kana, mark = match.groups()
    if mark in "ゞヾ" and kana in "かきくけこさしすせそたちつてとはひふへほ" + (
        "カキクケコサシスセソタチツテトハヒフヘホ"
    ):
        return kana + chr(ord(kana) + 1)
    return kana + kana


_KANJI = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af]")


def correct_kanji(draft: Draft, unread: Callable[[str], Iterable[str]]) -> None:
    """Replace what OpenJTalk does not read by what it reads.

    Args:
        draft: a Japanese segment.
        unread: stretches of a text that OpenJTalk takes for marks though they have letters.
    """
    silent = list(unread(draft.text.text))
    if not silent:
        return
    if any("々" in stretch or "〻" in stretch for stretch in silent):
        known = _unread_marks(draft, unread)
        draft.sub(
            _KANJI_REPEATED, lambda m: m[1] if m[1] and known(m) else m.group(), "an iteration mark"
        )
    characters = {char for stretch in silent for char in stretch if _KANJI.match(char)}
    forms = {}
    for char in characters:
        for form in _forms(char):
            if not any(unread(form)):
                forms[char] = form
                break
    if forms:
        pattern = re.compile(f"[{''.join(forms)}]")
        draft.sub(pattern, lambda m: forms[m.group()], "another form of the character")


def _unread_marks(
    draft: Draft, unread: Callable[[str], Iterable[str]]
) -> Callable[[re.Match[str]], bool]:
    """Whether an iteration mark stays silent: its word (人々) is not in the dictionary."""

    @lru_cache(maxsize=256)
    def silent(word: str) -> bool:
        return any("々" in stretch or "〻" in stretch for stretch in unread(word))

    def found(match: re.Match[str]) -> bool:
        text = match.string
        return silent(text[max(0, match.start() - 3) : match.end() + 2])

    return found


def foreign(stretches: Iterable[str]) -> bool:
    """Whether stretches that OpenJTalk does not read are of no kanji that Japanese names have."""
    own = _variants()[0]
    return any(_KANJI.match(char) and char not in own for s in stretches for char in s)


def _forms(char: str) -> list[str]:
    """Other forms of a kanji, the likeliest first."""
    own, convert, simplify = _variants()
    found = [own.get(char, char), convert(char), convert(simplify(char))]
    return [form for form in dict.fromkeys(found) if form != char and len(form) == 1]


@cache
def _variants() -> tuple[dict[str, str], Callable[[str], str], Callable[[str], str]]:
    table: dict[str, str] = read_data("japanese_variants.json")["forms"]
    from opencc import OpenCC

    new_forms: Any = OpenCC("t2jp").convert
    traditional: Any = OpenCC("s2t").convert
    return table, new_forms, traditional
