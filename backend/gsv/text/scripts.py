"""Whether a text has anything that a language mode reads, told by its characters alone.

Needs no dictionary, so that a transcript can be checked where none is at hand. The frontend itself
judges by phonemes, which is stricter.
"""

from __future__ import annotations

import re
import unicodedata

_LATIN = "A-Za-z\u00c0-\u024f"
_HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af\u3007"
_KANA = "\u3041-\u3096\u30a1-\u30fa"
_HANGUL = "\u1100-\u11ff\u3131-\u318e\uac00-\ud7a3"
_OF = {"zh": _HAN, "yue": _HAN, "ja": _HAN + _KANA, "ko": _HANGUL, "en": ""}
_ANY = _HAN + _KANA + _HANGUL


def has_words(text: str, mode: str) -> bool:
    """Whether a text has a letter or digit that the mode (``gsv.options.LANGUAGES``) reads.

    Latin letters and digits are read in all of them.
    """
    letters = _OF.get(mode.removeprefix("all_"), _ANY)
    return re.search(rf"[\d{_LATIN}{letters}]", unicodedata.normalize("NFKC", text)) is not None
