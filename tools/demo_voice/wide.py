"""A wider grammar than ``sentences.Grammar``: 2 to 40 words, names, numbers, questions, prose.

All of it is our own writing. Numbers are written as words, for Festival and the product's frontend
read figures differently.
"""

# ruff: noqa: E501  (a form of a sentence is easiest to read on one line)

from __future__ import annotations

from pathlib import Path

from everyday import EVERYDAY
from sentences import (
    INFINITIVES,
    JUDGED,
    REFERENCE,
    SPOKEN_BY_DEMO,
    Grammar,
    phrases,
    split_words,
    written,
)

from gsv.commands.calibration_texts import TEXTS

MOST_WORDS = 40
_SHARES = {  # how often each kind of text is drawn
    "short": 0.12, "plain": 0.22, "compound": 0.24, "question": 0.08, "figures": 0.10,
    "words": 0.10, "prose": 0.14,
}  # fmt: skip
_NAMES = split_words("""Anna Peter Mary John Susan Robert Linda Michael Karen David Laura James Emma Thomas Alice
Henry Julia Daniel Sarah George Helen Martin Grace Frank Nancy Paul Rachel Steven Diana Walter Clara
Simon Maria Kevin Rose Oliver Ruth Victor Irene Jacob Sophie Samuel Carol Edward Monica Philip Jane""")
_SURNAMES = split_words("""Smith Brown Miller Wilson Taylor Anderson Moore Jackson White Harris Martin Thompson
Clark Lewis Walker Young Allen King Wright Scott Hill Green Adams Baker Nelson Carter Mitchell Turner
Parker Collins Edwards Morris Cook Rogers Morgan Bailey Cooper Howard Ward Gray Watson Brooks""")
_CITIES = split_words("""Boston Chicago London Paris Berlin Madrid Rome Dallas Denver Seattle Toronto Dublin
Vienna Moscow Tokyo Sydney Houston Phoenix Portland Memphis Atlanta Oxford Cambridge Texas Florida
California Canada Mexico Germany France Italy Spain England Ireland Japan China India Brazil Africa""")
_MONTHS = split_words(
    """January February March April May June July August September October November December"""
)
_DAYS = split_words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
_UNITS = phrases("""dollars|minutes|hours|days|miles|people|pages|children|years|tickets|students|pounds|
percent|houses|trees|books|chairs|boxes|kilometers|degrees|weeks|months|cars|bottles|letters|meters""")
_ONES = split_words("""zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen
fifteen sixteen seventeen eighteen nineteen""")
_TENS = split_words("twenty thirty forty fifty sixty seventy eighty ninety")
_ORDINALS = split_words("""first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth
thirteenth fourteenth fifteenth twentieth thirtieth""")
_JOINTS = split_words(
    """and but because so when while before after until although if since where as"""
)
_OPENERS = phrases("""well|yes|no|first|then|later|finally|of course|in the end|after a while|to be honest|
on the other hand|for example|as usual|in fact|at last|sooner or later|once upon a time|from time to time|
by the way|at the same time|in those days|by the end of the week|all things considered""")
_SHORT = phrases("""come here|wait for me|look at that|not today|maybe later|never mind|of course not|
good idea|well done|that is enough|sit down please|take care|follow me|listen to this|hurry up|
let us go|do it again|thank you so much|have a nice trip|call me later|be careful|keep quiet|
what a pity|how wonderful|so far so good|no problem at all|turn it off|put it there|leave me alone|
I agree|they know|she laughed|he waited|we won|you promised|it works|nobody answered|time is money|
try once more|open the door|close your eyes|stop right there|give it back|that makes sense""")
_TRADES = phrases("""a baker|a carpenter|an engineer|a gardener|a painter|a pilot|a plumber|a sailor|a tailor|
a waiter|a journalist|a musician|a scientist|a secretary|a shepherd|a fisherman|a clerk|a dancer|a judge|
a mechanic|a photographer|a professor|a chemist|an actor|an artist""")
_MORE_THINGS = phrases("""the umbrella|an envelope|the fountain|a microphone|the kettle|his luggage|her necklace|the
staircase|a wooden spoon|the blue curtain|a heavy suitcase|the garden fence|a loaf of bread|the chimney|
a bunch of grapes|the orange juice|a jar of honey|the front porch|a sheet of paper|the railway map|the
calendar|a small island|the tower|a rusty nail|the violin|a thick sweater|the pumpkin|some onions|the
refrigerator|a broken vase|the village square|a leather wallet|the museum shop|the winter coat|a
dangerous curve|the southern coast|the shallow water|an ancient castle|the orchestra|a modern kitchen|
the washing machine|a science lesson|the insurance company|a television program|the government|an
important message|the basketball team|a vegetable soup|the photograph|a beautiful voice""")
_MORE_ACTS = phrases("""explained|described|collected|delivered|examined|imagined|discovered|borrowed|
arranged|admired|avoided|chose|compared|destroyed|enjoyed|finished|followed|guarded|ignored|introduced|
measured|mentioned|noticed|offered|packed|polished|prepared|protected|received|recognized|refused|removed|
repaired|replaced|returned|searched|shared|showed|signed|studied|suggested|tasted|touched|wrapped""")
_WISHES = phrases("""I would like to|we are going to|you ought to|they used to|she promised to|he refused to|
it is easy to|it is hard to|nobody wants to|everybody likes to|we had better|let us|try to|
remember to|I am about to|they agreed to|she learned how to|we hope to""")
_QUESTIONS = split_words("why when where how")
_PROSE = (Path(__file__).parent / "prose.txt").read_text(encoding="utf-8").splitlines()
_ROADS = phrases(
    "the road|the lane|our street|the avenue|Mill Road|Church Street|Station Road|the old coast road"
)


class WideGrammar(Grammar):
    """Draws texts of many kinds; the same seed gives the same ones."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self._kinds = {
            "short": self._short, "plain": self._sentence, "compound": self._compound,
            "question": self._question, "figures": self._figures, "words": self._string,
            "prose": self._prose,
        }  # fmt: skip

    def training(self, count: int) -> list[str]:
        """``count`` different texts of at most ``MOST_WORDS`` words, none of which is judged."""
        barred = {_bare(text) for text in (*JUDGED, *SPOKEN_BY_DEMO, REFERENCE, *EVERYDAY)}
        barred |= {_bare(text) for text in TEXTS["en"]}
        made: dict[str, str] = {}
        while len(made) < count:
            (kind,) = self._random.choices(list(_SHARES), list(_SHARES.values()))
            text = self._kinds[kind]()
            if _bare(text) not in barred and 2 <= len(text.split()) <= MOST_WORDS:
                made.setdefault(_bare(text), text)
        return list(made.values())

    def _number(self, most: int = 9_999) -> str:
        return spelled(self._random.choice([self._random.randint(2, 20), self._random.randint(20, 99),
                                            self._random.randint(100, most)]))  # fmt: skip

    def _short(self) -> str:
        p = self._pick
        forms = [
            p(_SHORT), f"{p(_SHORT)} {p(_NAMES)}", f"{p(_NAMES)} {p(_MORE_ACTS)} {p(_MORE_THINGS)}",
            f"{p(self._frequent)} {p(self._frequent)}", f"{p(_NAMES)} {p(_SURNAMES)}",
            f"{p(_OPENERS)} {p(_SHORT)}", f"{p(self._frequent)} {p(['and', 'or'])} {p(self._frequent)}",
            f"goodbye {p(_NAMES)}", f"this is {p(_NAMES)}", f"I am {p(_TRADES)}", f"see you in {p(_MONTHS)}",
        ]  # fmt: skip
        return written(p(forms))[:-1] + p([".", ".", ".", "!", "!", ","])

    def _clause(self) -> str:
        p = self._pick
        forms = [
            self._bare_sentence(), self._bare_sentence(),
            f"{p([self._who(), p(_NAMES)])} {p(_MORE_ACTS)} {p(_MORE_THINGS)}",
            f"{p(_NAMES)} {p(_MORE_ACTS)} {p([self._thing(), p(_MORE_THINGS)])} in {p(_CITIES)}",
            f"{p(_WISHES)} {p(INFINITIVES)}", f"{p(_NAMES)} and {p(_NAMES)} {p(_MORE_ACTS)} {p(_MORE_THINGS)}",
            f"{self._who()} heard that {p(_NAMES)} had become {p(_TRADES)}",
            f"{p(_MORE_THINGS)} was {p(['bigger', 'older', 'heavier', 'cheaper', 'prettier'])} than {p(_MORE_THINGS)}",
        ]  # fmt: skip
        return p(forms)

    def _bare_sentence(self) -> str:
        text = self._sentence()[:-1]
        first = text.split()[0]
        return text if first in {"I", *_NAMES} else text[0].lower() + text[1:]

    def _compound(self) -> str:
        parts = [self._clause()]
        for _ in range(self._random.choice([1, 1, 2, 2, 3, 4])):
            comma = "," if self._random.random() < 0.35 else ""
            parts[-1] += comma
            parts.append(f"{self._pick(_JOINTS)} {self._clause()}")
        if self._random.random() < 0.25:
            parts[0] = f"{self._pick(_OPENERS)}, {parts[0]}"
        return written(" ".join(parts))

    def _question(self) -> str:
        p = self._pick
        forms = [
            f"{p(['do', 'did', 'will', 'can', 'could', 'should', 'would'])} {self._who()} {p(INFINITIVES)}",
            f"{p(_QUESTIONS)} {p(['did', 'will', 'can', 'would'])} {self._who()} {p(INFINITIVES)}",
            f"who {p(_MORE_ACTS)} {p(_MORE_THINGS)}", f"what did {p(_NAMES)} say about {p(_MORE_THINGS)}",
            f"is there {p(['anything', 'nothing', 'something'])} between {p(_CITIES)} and {p(_CITIES)}",
            f"how many {p(_UNITS)} are there in {p(_CITIES)}", f"have you ever been to {p(_CITIES)}",
            f"which way to {p(_CITIES)}", f"is {p(_NAMES)} {p(_TRADES)} or {p(_TRADES)}",
            f"could you please {p(INFINITIVES)} when {self._who()} {p(_MORE_ACTS)} {p(_MORE_THINGS)}",
        ]  # fmt: skip
        return written(p(forms))[:-1] + p(["?", "?", "?", "!"])

    def _figures(self) -> str:
        p, number = self._pick, self._number
        forms = [
            f"{p(_NAMES)} was born on {p(_MONTHS)} {p(_ORDINALS)}",
            f"the {p(_ORDINALS)} of {p(_MONTHS)} is a {p(_DAYS)}",
            f"it costs {number()} dollars and {spelled(self._random.randint(2, 99))} cents",
            f"there are {number()} {p(_UNITS)} on the list", f"the number is {self._digits()}",
            f"about {number()} {p(_UNITS)} from {p(_CITIES)} to {p(_CITIES)}",
            f"{p(_NAMES)} {p(_SURNAMES)} lives at {spelled(self._random.randint(2, 199))} {p(_SURNAMES)} street",
            f"the train to {p(_CITIES)} leaves at {p(_ONES[1:13])} {p([*_ONES[10:], *_TENS[:4]])}",
            f"in {p(['nineteen', 'eighteen', 'twenty'])} {spelled(self._random.randint(11, 99))} {self._clause()}",
            f"{number()} plus {number(999)} makes {number()}", f"chapter {p(_ONES[1:])}",
            f"we sold {number()} {p(_UNITS)} in {p(_MONTHS)} and {number()} in {p(_MONTHS)}",
            f"page {number(500)}, line {number(100)}",
            f"on {p(_DAYS)} it will be {p(_TENS)} {p(['', p(_ONES[1:10])])} degrees in {p(_CITIES)}".replace("  ", " "),
        ]  # fmt: skip
        return written(p(forms))

    def _digits(self) -> str:
        return " ".join(self._pick(_ONES[:10]) for _ in range(self._random.randint(3, 8)))

    def _string(self) -> str:
        count = self._random.randint(3, 18)
        return written(" ".join(self._pick(self._frequent) for _ in range(count)))

    def _prose(self) -> str:
        p = self._pick
        text = p(_PROSE)
        for slot, choices in (
            ("{name}", _NAMES), ("{surname}", _SURNAMES), ("{city}", _CITIES), ("{road}", _ROADS),
        ):  # fmt: skip
            while slot in text:
                text = text.replace(slot, p(choices), 1)
        text = text.replace("{number}", spelled(self._random.randint(2, 300)))
        if self._random.random() < 0.5:
            return text
        # A part of it, so that prose is not learned by heart.
        parts = text[:-1].split(", ")
        first = self._random.randrange(len(parts))
        piece = ", ".join(parts[first : first + self._random.randint(1, len(parts))])
        return piece[0].upper() + piece[1:] + p([".", ".", ",", "!"])


def spelled(number: int) -> str:
    """A number from 0 to 9,999 in words, without marks."""
    if number >= 1_000:
        head, rest = f"{_ONES[number // 1_000]} thousand", number % 1_000
    elif number >= 100:
        head, rest = f"{_ONES[number // 100]} hundred", number % 100
    elif number >= 20:
        head, rest = _TENS[number // 10 - 2], number % 10
    else:
        return _ONES[number]
    return f"{head} {spelled(rest)}" if rest else head


def _bare(text: str) -> str:
    return text.lower().rstrip(".,!?")
