"""Regular expressions over a model's tokens: which ones may follow, so that the text can still match."""

from __future__ import annotations

from collections import deque
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from ..data import CharacterTokenizer, Tokenizer, WordTokenizer
from ..data.byte_level import ByteLevelTokenizer
from ..errors import UsageError
from .expressions import automaton, shown
from .utf8 import over_bytes

MAX_ENTRIES = 1 << 26  # of `Constraint.next`: 256 MiB
BLOCK = 1 << 22  # entries that are worked on at once


class Constraint(NamedTuple):
    """A deterministic automaton over tokens; state 0 is that before the first token.

    From every state a whole match can be reached with the tokens of the vocabulary.
    """

    next: np.ndarray
    """(S, V) int32: the state after a token; -1 where no match of the whole pattern goes on so."""
    final: np.ndarray
    """(S,) bool: whether the text so far is a whole match."""
    distance: np.ndarray
    """(S,) int32: the fewest tokens that make a whole match of it; 0 where it is one."""


def check_fits(made: Constraint, length: int) -> None:
    """Raise UsageError where a match takes more tokens than that."""
    if made.distance[0] > length:
        raise UsageError(
            f"a match of the regular expression takes {made.distance[0]} tokens or more: allow for them with "
            f"--length, which is {length}"
        )


def constraint(pattern: str, tokenizer: Tokenizer, prompt: str = "") -> Constraint:
    """The texts that match a regular expression as a whole (`re.fullmatch`), token by token.

    The text is what `tokenizer.decoder(prompt)` makes of the tokens, without the prompt: the spaces between words
    belong to it, so that after a prompt which ends in a word it begins with one. Tokens of bytes may
    end within a character, but have to make well-formed UTF-8. Syntax, flags and
    character classes are those of `re`; see `expressions.automaton` for what is left out.

    The last few are kept, for samples that share theirs.

    Raises UsageError for an expression that cannot be read or followed, is too large (`expressions.MAX_STATES`
    states, MAX_ENTRIES entries of `next`), or that no text matches: none at all, or none of this vocabulary.
    """
    # of a prompt only its end matters, and that among words
    return _made(pattern, tokenizer, prompt[-1:] if isinstance(tokenizer, WordTokenizer) else "")


@lru_cache(maxsize=4)
def _made(pattern: str, tokenizer: Tokenizer, prompt: str) -> Constraint:
    characters = automaton(pattern)
    if not _reaches_final(characters.next, characters.final)[0]:
        raise UsageError(f"the regular expression {shown(pattern)} matches no text at all")
    if isinstance(tokenizer, ByteLevelTokenizer):
        step, final = over_bytes(pattern, characters)
        _check_size(pattern, len(step), len(tokenizer))
        start, after = 0, _after_tokens(step, [tuple(token) for token in tokenizer.token_bytes()])
    elif isinstance(tokenizer, CharacterTokenizer):
        _check_size(pattern, len(characters.next), len(tokenizer))
        classes = characters.classes_of(_points("".join(tokenizer.vocabulary)))
        start, final, after = 0, characters.final, characters.next[:, classes]
    elif isinstance(tokenizer, WordTokenizer):
        _check_size(pattern, 2 * len(characters.next), len(tokenizer))
        spaced, bare, ends_line = _words(tokenizer)
        spell = [[tuple(characters.classes_of(_points(text))) for text in texts] for texts in (spaced, bare)]
        after = np.concatenate([_after_tokens(characters.next, spelling) for spelling in spell])
        # the second half of the states are those at the start of a line
        after[:, ends_line] += np.where(after[:, ends_line] >= 0, len(characters.next), 0).astype(np.int32)
        final = np.tile(characters.final, 2)
        joined = tokenizer.decoder(prompt).feed([0]).startswith(" ")
        start = 0 if joined else len(characters.next)
    else:
        raise UsageError(f"a regular expression cannot be followed with the tokenizer {tokenizer.kind!r}")
    trimmed = _trimmed(after, final, start)
    if trimmed is None:
        raise UsageError(
            f"the regular expression {shown(pattern)} matches no text that the model's vocabulary of "
            f"{len(tokenizer):,} {tokenizer.unit}s can write" + _hint(tokenizer, prompt)
        )
    return trimmed


def _hint(tokenizer: Tokenizer, prompt: str) -> str:
    if isinstance(tokenizer, WordTokenizer) and prompt and not prompt[-1].isspace():
        return " (after this prompt it begins with a space, which the expression has to allow for)"
    return ""


def _check_size(pattern: str, states: int, tokens: int) -> None:
    if states * tokens > MAX_ENTRIES:
        raise UsageError(
            f"the regular expression {shown(pattern)} needs {states:,} states for {tokens:,} tokens, a table of more "
            f"than {MAX_ENTRIES * 4 >> 20} MiB: use smaller counts or narrower classes"
        )


def _points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.dtype("<u4"))


def _words(tokenizer: WordTokenizer) -> tuple[list[str], list[str], np.ndarray]:
    """What each token adds after a word and at the start of a line, and whether it ends one, (V,) bool."""
    tokens = range(len(tokenizer))
    bare = [tokenizer.decoder().feed([k]) for k in tokens]
    after_word = tokenizer.decoder()
    after_word.feed([0])
    spaced = [after_word.copy().feed([k]) for k in tokens]
    return spaced, bare, np.array([text == "\n" for text in bare])


def _after_tokens(step: np.ndarray, spelling: list[tuple[int, ...]]) -> np.ndarray:
    """The states (S, V) after tokens that are sequences of the symbols of `step` (S, symbols)."""
    S = len(step)
    table = np.concatenate([step, np.full((1, step.shape[1]), S, dtype=np.int32)]).T.copy()
    table[table < 0] = S  # nothing leads out of the last state
    after = np.empty((len(spelling), S), dtype=np.int32)
    states = [np.arange(S, dtype=np.int32)]  # after each of the first symbols of the token before
    before: tuple[int, ...] = ()
    for token in sorted(range(len(spelling)), key=spelling.__getitem__):
        symbols = spelling[token]
        common = 0
        while common < min(len(symbols), len(before)) and symbols[common] == before[common]:
            common += 1
        del states[common + 1 :]
        for symbol in symbols[common:]:
            states.append(table[symbol].take(states[-1]))
        after[token] = states[-1]
        before = symbols
    after[after == S] = -1
    return np.ascontiguousarray(after.T)


def _trimmed(after: np.ndarray, final: np.ndarray, start: int) -> Constraint | None:
    """Only the states that lie between the start and a whole match, the start first; None if it does not."""
    distance = _distances(after, final)
    if distance[start] < 0:
        return None
    number = np.full(len(after) + 1, -1, dtype=np.int32)  # the last stands for -1
    number[start] = 0
    kept = [start]
    for state in kept:  # which grows
        targets = np.unique(after[state])
        targets = targets[(targets >= 0) & (number[targets] < 0) & (distance[targets] >= 0)]
        number[targets] = np.arange(len(kept), len(kept) + len(targets), dtype=np.int32)
        kept.extend(targets.tolist())
    return Constraint(number[after[kept]], final[kept], distance[kept])


def _reaches_final(after: np.ndarray, final: np.ndarray) -> np.ndarray:
    """Whether a final state can be reached from each state, (S,)."""
    reached: np.ndarray = _distances(after, final) >= 0
    return reached


def _distances(after: np.ndarray, final: np.ndarray) -> np.ndarray:
    """The fewest symbols from each state to a final one, (S,) int32; -1 where none is reached."""
    S, V = after.shape
    before: list[list[int]] = [[] for _ in range(S)]
    rows = max(1, BLOCK // V)
    for first in range(0, S, rows):
        targets = np.sort(after[first : first + rows], axis=1)
        new = targets >= 0
        new[:, 1:] &= targets[:, 1:] != targets[:, :-1]
        sources, columns = np.nonzero(new)
        for source, target in zip(
            (sources + first).tolist(), targets[sources, columns].tolist(), strict=True
        ):
            before[target].append(source)
    distance = np.full(S, -1, dtype=np.int32)
    distance[final] = 0
    waiting = deque(np.flatnonzero(final).tolist())
    while waiting:
        state = waiting.popleft()
        for source in before[state]:
            if distance[source] < 0:
                distance[source] = distance[state] + 1
                waiting.append(source)
    return distance
