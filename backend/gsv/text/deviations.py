"""What the frontend does otherwise than upstream, on purpose.

Upstream's phonemes are what the models were trained on, so its readings are kept, odd ones too,
except where it fails, leaves words out or changes amounts. ``DEVIATIONS`` are those of both
readings: ``gsv.text.parity`` counts a case that upstream raised on, or that shows one of them,
apart. ``CORRECTIONS`` are those of the reading ``corrected`` alone, each with examples.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from gsv.text.split import MAX_SENTENCE, SENTENCE_MARKS


@dataclass(frozen=True)
class Deviation:
    """One deviation.

    Attributes:
        upstream: what upstream does.
        here: what is done here.
        shows: texts that can show it where upstream does not raise; None if it always raises.
        languages: in which it shows; empty for all.
    """

    upstream: str
    here: str
    shows: re.Pattern[str] | None = None
    languages: tuple[str, ...] = ()

    def can_show(self, text: str, mode: str) -> bool:
        """Whether a text read in this language mode ("": any) can differ for this reason."""
        if self.shows is None or not self.shows.search(text):
            return False
        language = mode.removeprefix("all_")
        return (
            not (mode and self.languages) or mode.startswith("auto") or (language in self.languages)
        )


_MARKS = re.escape("".join(sorted(SENTENCE_MARKS)))

DEVIATIONS = (
    Deviation(
        "raises on blank text, and on text that has nothing but marks",
        "no sentences; a request without any is refused (INVALID_ARG)",
    ),
    Deviation(
        "a text of which nothing but marks is read (Cyrillic in `en`) is a second of noise",
        "it is refused (INVALID_ARG), with the characters that have no reading; so is a transcript",
    ),
    Deviation(
        "a run of more than 510 characters without a mark gives an empty sentence, which raises or "
        "is spoken as a pause, and a sentence that is too long for BERT",
        "no empty sentence; the run is cut at its last 、 ; or space within the limit, or at it",
        re.compile(rf"[^{_MARKS}\n]{{{MAX_SENTENCE - 1},}}"),
    ),
    Deviation(
        "a Mandarin sentence of more than 510 characters when written out is too long for BERT",
        "it is cut near its middle until its parts fit",
    ),
    Deviation(
        "repeated marks are not collapsed when streaming",
        "they always are",
    ),
    Deviation(
        "an empty Mandarin segment raises in the BERT step",
        "it is left out",
    ),
    Deviation(
        "characters without a reading raise: 兙, 甅 and ten more in Mandarin, 讠, 钅 and 17 more "
        "radicals in Cantonese",
        "they are read as UNK",
    ),
    Deviation(
        "decimal digits of scripts other than ASCII and full-width raise in Mandarin and Cantonese",
        "they are read",
    ),
    Deviation(
        "in a time range (9:30-10:15) the first time's minutes decide whether either is 半",
        "each time's own minutes are read",
        re.compile(r"\d:\d\d(:\d\d)?[~-]\d{1,2}:\d\d"),
        ("zh", "yue"),
    ),
    Deviation(
        "a character whose simplified form lies outside U+4E00–9FA5 is dropped (綵, 訢 and others)",
        "it stays as it is and is read",
        re.compile("[儸綵訢撝瞜讌螮貙鰆鷈鷉鷿鸊]"),
        ("zh", "yue"),
    ),
    Deviation(
        "榜 is taken for a traditional character, and read as 搒 (bàng)",
        "it is read as it is (bǎng)",
        re.compile("榜"),
        ("zh", "yue"),
    ),
    Deviation(
        "a character with two syllables in Cantonese (卅, 瓩) is read as a broken one",
        "both are read",
        re.compile("[兙兛兝兞兡兣卄卅卌嗧瓧瓩瓰瓱瓸甅竍竏竓竕竡竰籿粀粁粌粍粨粴糎]"),
        ("yue",),
    ),
    Deviation(
        "a Korean number before a counted noun is also replaced inside other numbers of the "
        "sentence; one of more than 16 digits raises",
        "each number is replaced where it stands; long ones are read digit by digit",
        re.compile(
            r"(?<!\d)(\d+)[ㄱ-힣].*(?:\d\1|\1\d)|\d(\d+)\D.*(?<!\d)\2[ㄱ-힣]|"
            r"(?<!\d)(\d+)\d+\D.*(?<!\d)\3[ㄱ-힣]"
        ),
        ("ko",),
    ),
    Deviation(
        "in `auto`, Chinese that is taken for Japanese fails where Japanese can't be read",
        "it is read as Chinese unless it has kana",
    ),
    Deviation(
        "very long runs of Japanese overflow OpenJTalk's buffers and crash the process",
        "they are read in parts",
    ),
    Deviation(
        "English amounts such as (5$) or ,5£ raise",
        "five dollars, five pounds",
    ),
    Deviation(
        "English numbers of more than 36 digits raise",
        "they are read digit by digit",
    ),
    Deviation(
        "the possessive of an English word that no dictionary has and the network is silent about "
        "raises",
        "'s is read alone",
    ),
)


@dataclass(frozen=True)
class Correction:
    """One deviation of the reading ``corrected``.

    Attributes:
        written: what is written.
        upstream: what upstream makes of it.
        here: how it is read.
        examples: language mode, a text, and how it is read in both readings alike when it is
            written plainly.
    """

    written: str
    upstream: str
    here: str
    examples: tuple[tuple[str, str, str], ...]


CORRECTIONS = (
    Correction(
        "decomposed letters (as macOS writes them)",
        "Hangul is lost, kana lose their voicing",
        "canonical composition first, in texts, transcripts and keys of a lexicon",
        (("ko", "\u1112\u1161\u11ab\u1100\u1173\u11af 만세", "한글 만세"),),
    ),
    Correction(
        "full-width and other compatibility forms: ＡＢＣ１２３％ Ⅲ ① ㈱ ㎏ ﬁ 𝐁",
        "mostly lost",
        "what they stand for; numerals apart from numbers beside them; full-width marks stay",
        (
            ("zh", "第Ⅲ章", "第三章"),
            ("en", "ＡＢＣ １２３", "ABC 123"),
            ("ja", "㈱テスト", "株式会社テスト"),
        ),
    ),
    Correction(
        "fractions in one character: ½ 2½",
        "lost",
        "one half, two and a half; 二分之一; 2分の1; 2분의 일",
        (("en", "2½ cups", "2 and a half cups"), ("zh", "½杯水", "二分之一杯水")),
    ),
    Correction(
        "curly apostrophes and quotes",
        "I’m becomes Im",
        "I'm; quotes are no break",
        (("en", "They’re “great”", "They're great"),),
    ),
    Correction(
        "spaces of other kinds, line breaks of other kinds, invisible characters",
        "left out: two words become one",
        "a space, a line break; soft hyphens and the like go",
        (("en", "Hello\u00a0world", "Hello world"),),
    ),
    Correction(
        "dashes between words and between numbers, a slash or another sign between words",
        "left out: two words or numbers become one",
        "a pause; a range (to, 到, から, 에서); a space",
        (("en", "5–10 people", "5 to 10 people"), ("zh", "5–10人", "五到十人")),
    ),
    Correction(
        "marks inside numbers, times and abbreviations: 1,234 3.14 12:30 a.m. example.com",
        "end a sentence in cut5, cut1 and cut2",
        "end none",
        (("zh", "约10,000人", "约10000人"), ("ja", "1,980円", "1980円")),
    ),
    Correction(
        "a short text that begins with a number",
        "a point is put before it: 10元 becomes 0.10",
        "what is put before it is not a decimal point",
        (("zh", "10元", "十元"), ("yue", "10蚊", "十蚊")),
    ),
    Correction(
        "numbers with signs and units: -10℃ 50% 7/12 100㎡ 5km 3‰",
        "the segmenter parts sign and unit from the number, and they are lost",
        "kept together, and read in the language of their sentence",
        (
            ("zh", "气温-10℃", "气温零下十度"),
            ("ja", "5㎏", "5キログラム"),
            ("ko", "-10℃", "마이너스 10도"),
        ),
    ),
    Correction(
        "money: $ € £ ¥ ₩ ¢ and others, with amounts such as $5.3 billion, $5万",
        "most signs are lost; five dollars and thirty cents billion",
        "five point three billion dollars; 五万美元; 5ドル; 50달러",
        (("en", "€1.50", "1 euro and 50 cents"), ("zh", "¥199", "一百九十九元")),
    ),
    Correction(
        "dates in figures: 10/01/2024 2024-10-01",
        "ten twenty twenty-four; 减",
        "October first; 二零二四年十月一日 (month first in English where both could be)",
        (("en", "10/01/2024", "October 1st, 2024"), ("zh", "2024-3-5", "2024年3月5日")),
    ),
    Correction(
        "times in English: 12:05 a.m.",
        "twelve five p.m. a. m.",
        "twelve oh five a.m.",
        (("en", "at 3:05 pm", "at three oh five p.m."),),
    ),
    Correction(
        "decades, telephone numbers, versions, zeros in front in English: 1990s 2.0.1 007",
        "nineteen ninety seconds; three hundred twenty-one-four hundred",
        "nineteen nineties; digit by digit; two point zero point one; zero zero seven",
        (
            ("en", "the 1990s", "the nineteen nineties"),
            ("en", "agent 007", "agent zero zero seven"),
        ),
    ),
    Correction(
        "signs in English: & @ # + = ° ~ ≥ and others; letters of other alphabets: ø ß α",
        "left out",
        "and, at, number, plus, equals, degrees, about, at least; o, ss, alpha",
        (("en", "R&D", "R and D"), ("en", "Søren", "Soren")),
    ),
    Correction(
        "a range or a telephone number with a hyphen in Chinese: 50-100元 010-62345678",
        "minus (减)",
        "到; digit by digit",
        (("zh", "50-100元", "五十到一百元"),),
    ),
    Correction(
        "a large amount in Chinese: 1234567元",
        "digit by digit, as a telephone number, from seven digits on",
        "an amount",
        (("zh", "12345678人", "一千二百三十四万五千六百七十八人"),),
    ),
    Correction(
        "characters outside U+4E00–9FA5 that have a reading: 〇 㗎 𠹷 䶮",
        "left out",
        "read",
        (("zh", "二〇二四年", "二零二四年"),),
    ),
    Correction(
        "variant forms of kanji that the dictionaries lack: 髙 﨑 𠮷 濵",
        "left out, or taken for English",
        "the form that they have: 高 崎 吉 浜",
        (("ja", "髙橋さん", "高橋さん"), ("ja", "𠮷野家", "吉野家")),
    ),
    Correction(
        "iteration marks: 々 in a word that the dictionary lacks, 人々 in Chinese",
        "left out",
        "what they repeat",
        (("zh", "人々都", "人人都"), ("ja", "声高々に", "声高高に")),
    ),
    Correction(
        "single letters of Hangul: ㅋㅋㅋ",
        "left out",
        "크크크",
        (("ko", "ㅋㅋㅋ", "크크크"),),
    ),
    Correction(
        "Chinese that `auto` takes for Japanese, without kana and with characters Japanese lacks",
        "read as Japanese, in part",
        "read as Chinese",
        (("auto", "饺子特别好吃，", "饺子特别好吃，"),),
    ),
)


def table() -> str:
    """The deviations of both readings as a Markdown table."""
    rows = [f"| {deviation.upstream} | {deviation.here} |" for deviation in DEVIATIONS]
    return "\n".join(["| upstream | here |", "|---|---|", *rows]) + "\n"


def corrections_table() -> str:
    """The deviations of the reading ``corrected`` as a Markdown table."""
    rows = [f"| {c.written} | {c.upstream} | {c.here} | {_examples(c)} |" for c in CORRECTIONS]
    head = ["| written | upstream | here | for example |", "|---|---|---|---|"]
    return "\n".join([*head, *rows]) + "\n"


def _examples(correction: Correction) -> str:
    return "<br>".join(
        f"`{_visible(text)}` as `{plain}` ({language})"
        for language, text, plain in correction.examples
    )


def _visible(text: str) -> str:
    """A text in which every character can be seen."""
    return "".join(
        f"<U+{ord(char):04X}>" if not char.isprintable() or "\u1100" <= char <= "\u11ff" else char
        for char in text
    )
