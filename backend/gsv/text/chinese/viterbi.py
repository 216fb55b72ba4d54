"""The likeliest tags of characters that make no dictionary word, faster than jieba finds them.

jieba asks of every pair of states, one pair after the other, how likely the one follows the other,
and this search is most of what reading Mandarin takes. Here all pairs of a step are one array. The
additions are jieba's, in jieba's order, so that sums and ties are the same.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
from numpy.typing import NDArray

State = tuple[str, str]  # place in the word (B M E S), tag
Table = Mapping[State, Mapping[State, float]]

_UNSEEN = -3.14e100  # jieba's log probability of what it has not seen


class Viterbi:
    """Stands in the place of ``jieba.posseg.viterbi.viterbi``, for one table of transitions."""

    def __init__(self, transitions: Table) -> None:
        # Of equal sums jieba takes that of the greatest state, argmax the first.
        self._states = sorted(transitions, reverse=True)
        self._places = {state: place for place, state in enumerate(self._states)}
        self._all = np.arange(len(self._states))
        self._table = np.full((len(self._states), len(self._states)), -np.inf)
        self._follows = np.zeros(self._table.shape, np.bool_)
        for state, row in transitions.items():
            for following, probability in row.items():
                pair = self._places[state], self._places[following]
                self._table[pair], self._follows[pair] = probability, True
        self._known: dict[str, NDArray[np.intp]] = {}  # some 6,500 characters

    def __call__(
        self,
        characters: str,
        states: Mapping[str, Collection[State]],
        start: Mapping[State, float],
        transitions: Table,
        emission: Mapping[State, Mapping[str, float]],
    ) -> tuple[float, list[State]]:
        """The likeliest states of the characters with their log probability.

        Args:
            characters: at least one.
            states: the states that a character is known in.
            start: log probabilities of the first state.
            transitions: those that this object was made of.
            emission: log probabilities of characters in a state.
        """
        before = self._known_in(characters[0], states)
        scores = self._emitted(before, characters[0], emission)
        scores += np.array([start[self._states[place]] for place in before])
        steps = [before]
        origins = []
        for character in characters[1:]:
            here = self._reached(before, self._known_in(character, states))
            totals = scores[:, None] + self._table[before[:, None], here]
            totals += self._emitted(here, character, emission)
            best = totals.argmax(axis=0)
            scores = totals[best, np.arange(len(here))]
            steps.append(here)
            origins.append(best)
            before = here
        last = int(scores.argmax())
        path = [last]
        for origin in reversed(origins):
            path.append(int(origin[path[-1]]))
        found = zip(steps, reversed(path), strict=True)
        return float(scores[last]), [self._states[step[index]] for step, index in found]

    def _known_in(
        self, character: str, states: Mapping[str, Collection[State]]
    ) -> NDArray[np.intp]:
        """Places of the states that a character is known in, in order; of all for an unknown."""
        known = self._known.get(character)
        if known is None:
            if character not in states:
                return self._all
            places = sorted(self._places[state] for state in states[character])
            known = self._known[character] = np.array(places, np.intp)
        return known

    def _emitted(
        self,
        places: NDArray[np.intp],
        character: str,
        emission: Mapping[State, Mapping[str, float]],
    ) -> NDArray[np.float64]:
        states = self._states
        return np.array([emission[states[p]].get(character, _UNSEEN) for p in places])

    def _reached(self, before: NDArray[np.intp], known: NDArray[np.intp]) -> NDArray[np.intp]:
        """States that can follow; those that the character is known in, if any of them is."""
        possible = self._follows[before].any(axis=0)
        reached: NDArray[np.intp] = known[possible[known]]
        if len(reached):
            return reached
        following = np.flatnonzero(possible)
        return following if len(following) else self._all
