"""The likeliest tags of characters that make no dictionary word, faster than jieba finds them.

jieba's search asks of every pair of states whether one follows the other; of 65,536 pairs 5,218 do.
Going along those alone gives the same path, ties included, in a half to a sixth of the time, and
this search is most of what reading Mandarin takes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

State = tuple[str, str]  # place in the word (B M E S), tag
Table = Mapping[State, Mapping[State, float]]

_UNSEEN = -3.14e100  # jieba's log probability of what it has not seen
_NEVER = float("-inf")
_NO_STATE = ("", "")  # smaller than every state


class Viterbi:
    """Stands in the place of ``jieba.posseg.viterbi.viterbi``, for one table of transitions."""

    def __init__(self, transitions: Table) -> None:
        self._states = transitions.keys()
        self._after = {state: frozenset(row) for state, row in transitions.items()}
        self._before: dict[State, list[tuple[State, float]]] = {state: [] for state in transitions}
        for state, row in transitions.items():
            for following, probability in row.items():
                self._before[following].append((state, probability))

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
        first = characters[0]
        scores = {
            state: start[state] + emission[state].get(first, _UNSEEN)
            for state in states.get(first, self._states)
        }
        steps: list[dict[State, State]] = []
        for character in characters[1:]:
            reached = self._reached(scores, states.get(character, self._states))
            step, following = {}, {}
            for state in reached:
                emitted = emission[state].get(character, _UNSEEN)
                following[state], step[state] = self._best(scores, state, emitted)
            scores = following
            steps.append(step)
        score, state = max((score, state) for state, score in scores.items())
        path = [state]
        for step in reversed(steps):
            state = step[state]
            path.append(state)
        return score, path[::-1]

    def _reached(self, scores: Iterable[State], known: Collection[State]) -> Collection[State]:
        """States that can follow; those that the character is known in, if any of them is."""
        possible = frozenset().union(*(self._after[state] for state in scores))
        return possible.intersection(known) or possible or self._states

    def _best(
        self, scores: Mapping[State, float], state: State, emitted: float
    ) -> tuple[float, State]:
        """The best score of a path to this state, and the state before; ties go to the later."""
        best, previous = _NEVER, _NO_STATE
        for before, probability in self._before[state]:
            score = scores.get(before)
            if score is not None:
                total = score + probability + emitted
                if total > best or (total == best and before > previous):
                    best, previous = total, before
        return best, max(scores) if previous is _NO_STATE else previous
