"""What is told of a model's predictions, segment by segment, and how sure it is."""

from __future__ import annotations

import json
import math
from random import Random
from typing import Any

import numpy as np
import pytest

import charlstm
from charlstm import DataConfig, EvaluationConfig, LanguageModel, Tokenizer, UsageError
from charlstm.backends import Ops, get_ops
from charlstm.data import Windows, coffee
from charlstm.evaluation import Segments, evaluate, figures_of, joined, measure, resampling
from charlstm.evaluation.detailed import score
from charlstm.evaluation.figures import DetailedEvaluation, summed_up

TEXT = coffee.text(9000) + "naïve  café ☕ 😀\nb é\n\n" * 20


def made(kind: str) -> Tokenizer:
    options = {"vocab_size": 400} if kind == "bpe" else {}
    return charlstm.make_tokenizer(DataConfig(tokenizer=kind, **options), [TEXT])  # type: ignore[arg-type]


def plain_posteriors(model: LanguageModel, tokens: np.ndarray) -> np.ndarray:
    """The posterior (N - 1, V) at every token but the first: the equations as they stand, in float64."""
    p = {
        name: np.asarray(model.ops.to_numpy(model.parameters[name]), np.float64) for name in model.parameters
    }
    H, L = model.config.hidden_size, model.config.num_layers
    h, c, rows = np.zeros((L, H)), np.zeros((L, H)), []
    for token in tokens[:-1].tolist():
        a = p["cifg.0.W"][token]
        for k in range(L):
            a = (a if k == 0 else h[k - 1] @ p[f"cifg.{k}.W"]) + p[f"cifg.{k}.b"] + h[k] @ p[f"cifg.{k}.R"]
            i, o = (1 / (1 + np.exp(-part)) for part in (a[:H], a[H : 2 * H]))
            c[k] = (1 - i) * c[k] + i * np.tanh(a[2 * H :])
            h[k] = o * np.tanh(c[k])
        e = np.exp(h[-1] @ p["head.weight"] + p["head.bias"])
        rows.append(e / e.sum())
    return np.array(rows)


def segments_by_hand(tokens: np.ndarray, tokenizer: Tokenizer, posterior: np.ndarray, k: int) -> Segments:
    """The sums, token by token."""
    pieces = [tokenizer.decode(tokens[:n]) for n in range(len(tokens) + 1)]
    total = len(pieces[-1])
    S = max(1, min(400, total // 200))
    sums, segment = Segments.zeros(S), 0
    for n in range(1, len(tokens)):
        begin = len(pieces[n])
        while segment + 1 < S and begin >= (segment + 1) * total // S:
            segment += 1
        row, target = posterior[n - 1], tokens[n]
        sums.nats[segment] -= math.log(row[target])
        sums.characters[segment] += len(pieces[n + 1]) - begin
        for place in range(begin, len(pieces[n + 1])):
            before, symbol = (pieces[-1][place - 1] if place else " "), pieces[-1][place]
            sums.words[segment] += symbol == "\n" or (before.isspace() and not symbol.isspace())
        order = sorted(range(len(row)), key=lambda v: -row[v])
        sums.top_k[segment] += target in order[:k]
        m = math.ceil(row.max() * 10) - 1
        sums.bin_tokens[segment, m] += 1
        sums.bin_correct[segment, m] += target == order[0]
        sums.bin_confidence[segment, m] += row.max()
    return sums


def assert_same(found: Segments, expected: Segments) -> None:
    for name in ("characters", "words", "top_k", "bin_tokens", "bin_correct"):
        assert np.array_equal(getattr(found, name), getattr(expected, name)), name
    assert np.allclose(found.nats, expected.nats, rtol=1e-10)
    assert np.allclose(found.bin_confidence, expected.bin_confidence, rtol=1e-10)


@pytest.mark.parametrize("kind", ["characters", "words"])
def test_sums_against_a_plain_loop(ops: Ops, kind: str) -> None:
    tokenizer = made(kind)
    tokens = tokenizer.encode(TEXT[8000:])[:900]
    model = LanguageModel(len(tokenizer), 7, 2, backend=ops, dtype="float64")
    model.parameters.flat[...] = model.parameters.flat * 3  # so that some posteriors are large
    found = measure(model, tokens, tokenizer, EvaluationConfig(top_k=4), streams=1)
    posterior = plain_posteriors(model, tokens)
    assert_same(found.segments, segments_by_hand(tokens, tokenizer, posterior, 4))
    nats = -np.log(posterior[np.arange(len(posterior)), tokens[1:]])
    assert found.loss == pytest.approx(nats.mean(), rel=1e-12)
    assert found.figures["bits_per_char"] == pytest.approx(
        nats.sum() / math.log(2) / found.characters, rel=1e-12
    )
    assert found.mean_max_posterior == pytest.approx(posterior.max(axis=1).mean(), rel=1e-12)


@pytest.mark.parametrize("logits", [1 << 24, 40])
def test_agreement_with_training_s_own_validation(
    logits: int, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Side by side, in chunks, and what the last piece is longer; with little memory for logits."""
    monkeypatch.setattr("charlstm.evaluation.detailed.LOGITS", logits)
    tokens = rng.integers(0, 9, 2100)
    model = LanguageModel(9, 4, 1, backend="numpy", dtype="float64")
    lean, found = evaluate(model, tokens), measure(model, tokens)
    assert (found.tokens, found.characters, found.words) == (2099, 2099, 0)
    assert found.loss == pytest.approx(lean.loss, rel=1e-10)
    assert found.mean_max_posterior == pytest.approx(lean.mean_max_posterior, rel=1e-10)
    assert found.figures["bits_per_word"] is None
    assert found.intervals["bits_per_word"] is None


@pytest.mark.parametrize("kind", ["characters", "words", "bpe"])
def test_windows_lie_in_the_segment_in_which_they_begin(kind: str) -> None:
    tokenizer = made(kind)
    tokens = tokenizer.encode(TEXT)
    model = LanguageModel(len(tokenizer), 5, 1, backend="numpy", dtype="float64")
    windows = Windows(tokens, 16, 40)
    found = measure(model, windows, tokenizer)
    expected = Segments.zeros(len(found.segments))
    total = len(tokenizer.decode(tokens))
    for start in range(0, len(tokens) - 16, 40):
        begin, end = (len(tokenizer.decode(tokens[: start + n])) for n in (1, 17))
        segment = max(s for s in range(len(expected)) if begin >= s * total // len(expected))
        one = measure(model, tokens[start : start + 17], streams=1)
        expected.nats[segment] += one.loss * 16
        expected.characters[segment] += end - begin
        expected.bin_tokens[segment] += one.segments.bin_tokens[0]
    assert np.allclose(found.segments.nats, expected.nats, rtol=1e-10)
    assert np.array_equal(found.segments.characters, expected.characters)
    assert np.array_equal(found.segments.bin_tokens, expected.bin_tokens)
    assert found.loss == pytest.approx(evaluate(model, windows).loss, rel=1e-12)


def test_tokenizers_have_the_same_segments() -> None:
    found = []
    for kind in ("characters", "bytes", "pretokenized", "bpe"):
        tokenizer = made(kind)
        text = TEXT.replace("  ", " ")  # what words between spaces keep of a text is the text
        model = LanguageModel(len(tokenizer), 4, 1, backend="numpy")
        found.append((measure(model, tokenizer.encode(text), tokenizer).segments, tokenizer))
    by_characters = found[0][0]
    ends = np.cumsum(by_characters.characters)
    for segments, tokenizer in found:
        longest = 1 if tokenizer.kind == "bytes" else max(map(len, tokenizer.vocabulary))
        assert len(segments) == len(by_characters) == len(text) // 200
        assert np.abs(np.cumsum(segments.characters) - ends).max() <= longest + 1
        assert np.abs(np.cumsum(segments.words) - np.cumsum(by_characters.words)).max() <= 1
    assert by_characters.words.sum() == len(text.split()) + text.count("\n") - 1  # the first has begun


def test_words_as_word_level_models_count_them() -> None:
    """Their tokens: what stands between white space, and line ends."""
    tokenizer = made("pretokenized")
    model = LanguageModel(len(tokenizer), 4, 1, backend="numpy")
    found = measure(model, tokenizer.encode(TEXT), tokenizer)
    assert found.words == found.tokens
    assert found.figures["word_perplexity"] == pytest.approx(found.perplexity, rel=1e-12)


# ---- accuracy and calibration against scikit-learn ------------------------------------------


def test_top_k_accuracy(ops: Ops, rng: np.random.Generator) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    logits, targets = rng.standard_normal((500, 7)), rng.integers(0, 7, 500)
    rank = score(ops, ops.asarray(logits), ops.asarray(targets)).rank
    for k in (1, 2, 5, 7):
        expected = metrics.top_k_accuracy_score(targets, logits, k=k, labels=range(7)) if k < 7 else 1.0
        assert (rank < k).mean() == pytest.approx(expected, rel=1e-12)


def test_of_equal_logits_the_first_ones_are_drawn_first(ops: Ops) -> None:
    """As argmax has it: who predicts nothing is right by chance only."""
    targets = ops.asarray(np.arange(5))
    assert score(ops, ops.asarray(np.zeros((5, 5))), targets).rank.tolist() == [0, 1, 2, 3, 4]


def test_calibration(rng: np.random.Generator) -> None:
    calibration = pytest.importorskip("sklearn.calibration")
    confidence = rng.beta(2, 2, 3000)
    correct = rng.random(3000) < confidence**1.5
    segments = Segments.zeros(3)
    segments.add(rng.integers(0, 3, 3000), np.ones(3000), confidence, np.where(correct, 0, 3), 5)
    found = summed_up(segments, EvaluationConfig())
    accuracy, mean = calibration.calibration_curve(correct, confidence, n_bins=10)
    assert np.allclose([each.accuracy for each in found.reliability], accuracy, rtol=1e-12)
    assert np.allclose([each.confidence for each in found.reliability], mean, rtol=1e-12)
    counts, _ = np.histogram(confidence, bins=10, range=(0, 1))
    assert [each.tokens for each in found.reliability] == counts.tolist()
    expected = (counts * np.abs(accuracy - mean)).sum() / 3000
    assert found.figures["expected_calibration_error"] == pytest.approx(expected, rel=1e-12)


# ---- intervals ------------------------------------------------------------------------------


def synthetic(nats: np.ndarray, tokens: np.ndarray, correct: np.ndarray) -> Segments:
    """Segments (S,) with tokens of posterior 0.55, of which some are right."""
    segments = Segments.zeros(len(nats))
    segments.nats[:], segments.characters[:] = nats, 4 * tokens
    segments.bin_tokens[:, 5], segments.bin_correct[:, 5] = tokens, correct
    segments.bin_confidence[:, 5] = 0.55 * tokens
    return segments


def test_intervals_cover_the_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    """95 % of them, on segments of different lengths whose tokens are alike."""
    monkeypatch.setattr("charlstm.evaluation.figures.RESAMPLES", 500)
    hits = dict.fromkeys(("loss", "perplexity", "bits_per_char", "top_1_accuracy"), 0)
    truth = {
        "loss": 2.0,
        "perplexity": math.exp(2),
        "bits_per_char": 0.5 / math.log(2),
        "top_1_accuracy": 0.6,
    }
    rng, draws = np.random.default_rng(5), 200
    for seed in range(draws):
        tokens = rng.integers(50, 200, 60)
        nats = tokens * rng.gamma(16, 2 / 16, 60)
        correct = rng.binomial(tokens, rng.beta(12, 8, 60))
        found = summed_up(synthetic(nats, tokens, correct), EvaluationConfig(bootstrap_seed=seed))
        for name, value in truth.items():
            low, high = found.intervals[name]  # type: ignore[misc]
            hits[name] += low <= value <= high
    # 0.95 within three standard errors of 200 draws, and a percent that the bootstrap of 60 segments lacks
    assert all(0.89 <= count / draws <= 0.99 for count in hits.values()), hits


def test_intervals_against_resampling_by_hand(rng: np.random.Generator) -> None:
    tokens = rng.integers(50, 200, 40)
    segments = synthetic(tokens * rng.gamma(9, 0.2, 40), tokens, tokens // 2)
    found = summed_up(segments, EvaluationConfig(bootstrap_seed=3))
    values = []
    for counts in resampling(40, 3):
        drawn = np.repeat(np.arange(40), counts)
        assert len(drawn) == 40
        values.append(segments.nats[drawn].sum() / segments.tokens[drawn].sum())
    assert found.intervals["loss"] == pytest.approx(tuple(np.quantile(values, [0.025, 0.975])), rel=1e-12)
    assert found.intervals["top_1_accuracy"][0] < found.figures["top_1_accuracy"]  # type: ignore
    assert found.intervals == summed_up(segments, EvaluationConfig(bootstrap_seed=3)).intervals
    assert found.intervals != summed_up(segments, EvaluationConfig(bootstrap_seed=4)).intervals


def test_segments_without_tokens_tell_nothing(rng: np.random.Generator) -> None:
    tokens = rng.integers(50, 200, 30)
    some = synthetic(tokens * rng.gamma(9, 0.2, 30), tokens, tokens // 2)
    more = some.followed_by(Segments.zeros(25))
    assert len(more) == 55
    assert summed_up(more, EvaluationConfig()).intervals == summed_up(some, EvaluationConfig()).intervals
    assert figures_of(more)["loss"] == figures_of(some)["loss"]


def test_short_texts_have_no_intervals() -> None:
    tokenizer = made("characters")
    model = LanguageModel(len(tokenizer), 4, 1, backend="numpy")
    for n, segments, known in ((2, 1, False), (150, 1, False), (3999, 19, False), (4000, 20, True)):
        found = measure(model, tokenizer.encode(TEXT[:n]), tokenizer)
        assert len(found.segments) == segments
        assert all((interval is not None) == known for interval in found.intervals.values())
        json.dumps(found.to_dict(), allow_nan=False)


def test_texts_after_each_other() -> None:
    tokenizer = made("characters")
    model = LanguageModel(len(tokenizer), 4, 1, backend="numpy")
    parts = [measure(model, tokenizer.encode(part), tokenizer) for part in (TEXT[:500], TEXT[500:2000])]
    both = joined(parts)
    assert both.tokens == 1998
    assert len(both.segments) == 2 + 7
    assert both.loss == pytest.approx((parts[0].loss * 499 + parts[1].loss * 1499) / 1998, rel=1e-12)


def test_models_that_read_no_text() -> None:
    for model in (
        charlstm.SequenceClassifier(3, 4, 5, backend="numpy", emit="every"),
        charlstm.CIFGModel(4, emit="last", backend="numpy"),
    ):
        for config in (EvaluationConfig(), EvaluationConfig(dynamic=True)):
            with pytest.raises(UsageError, match="does not predict the next token"):
                measure(model, np.zeros(10, np.uint8), config=config)


# ---- a source whose entropy is known ---------------------------------------------------------

Stack = tuple[str, ...]  # what is still to come of a sentence: symbols of the grammar and text


class CoffeeModel:
    """The exact predictor of the embedded grammar, with as much of a model as an evaluation asks for.

    It keeps the probability of all that may still come, given the sentence so far.
    """

    input_size, emit, ops = None, "every", get_ops("numpy")

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.output_size = len(tokenizer)
        self._vocabulary = tokenizer.vocabulary
        self._known: dict[Any, dict[str, tuple[float, Any]]] = {}
        self._start = ((("SENTENCE",), 1.0),)

    def zero_state(self, batch_size: int) -> Any:
        assert batch_size == 1
        return self._start

    def forward(self, x: np.ndarray, state: Any) -> tuple[np.ndarray, Any]:
        rows = np.full((len(x), 1, self.output_size), -1e9)
        for t, token in enumerate(x[:, 0]):
            state = self.next(state)[self._vocabulary[token]][1]
            for symbol, (p, _) in self.next(state).items():
                rows[t, 0, self._vocabulary.index(symbol)] = math.log(p)
        return rows, state

    def next(self, state: Any) -> dict[str, tuple[float, Any]]:
        """Which characters may come: the probability of each, and the state after it."""
        if state not in self._known:
            after: dict[str, dict[Stack, float]] = {}
            for stack, p in state:
                for (head, *rest), q in self._expanded(stack, p):
                    left = (head[1:], *rest) if len(head) > 1 else (tuple(rest) or ("SENTENCE",))
                    found = after.setdefault(head[0], {})
                    found[left] = found.get(left, 0.0) + q
            self._known[state] = {
                symbol: (sum(some.values()), self._normalized(some)) for symbol, some in after.items()
            }
        return self._known[state]

    def _expanded(self, stack: Stack, p: float) -> list[tuple[Stack, float]]:
        """What a stack may become until it begins with text."""
        if not stack[0]:
            return self._expanded(stack[1:], p)
        if stack[0] not in coffee.GRAMMAR:
            return [(stack, p)]
        alternatives = coffee.GRAMMAR[stack[0]]
        total = sum(weight for weight, _ in alternatives)
        return [
            found
            for weight, parts in alternatives
            for found in self._expanded((*parts, *stack[1:]), p * weight / total)
        ]

    @staticmethod
    def _normalized(some: dict[Stack, float]) -> Any:
        total = sum(some.values())
        return tuple(sorted((stack, round(p / total, 14)) for stack, p in some.items()))


@pytest.fixture(scope="module")
def exact() -> tuple[DetailedEvaluation, str]:
    text = coffee.text(60_000, seed=11)
    tokenizer = charlstm.CharacterTokenizer.from_text(text)
    model: Any = CoffeeModel(tokenizer)
    return measure(model, tokenizer.encode(text), tokenizer, streams=1), text


def test_the_grammars_samples_have_its_entropy(exact: tuple[DetailedEvaluation, str]) -> None:
    found, _ = exact
    entropy = coffee.entropy_per_character() / math.log(2)
    low, high = found.intervals["bits_per_char"]  # type: ignore[misc]
    assert low <= entropy <= high
    assert high - low < 0.04 * entropy
    low, high = found.intervals["perplexity"]  # type: ignore[misc]
    assert low <= math.exp(coffee.entropy_per_character()) <= high
    assert len(found.segments) == 300
    assert found.figures["expected_calibration_error"] < 0.01  # type: ignore[operator]


def test_its_log_probabilities_are_those_of_the_derivations(exact: tuple[DetailedEvaluation, str]) -> None:
    found, text = exact
    rng, nats, length = Random(11), 0.0, 0
    while length < len(text):
        sentence, more = coffee.draw("SENTENCE", rng)
        nats, length = nats + more, length + len(sentence)
    model: Any = CoffeeModel(charlstm.CharacterTokenizer.from_text(text))
    first, _ = model.next(model.zero_state(1))[text[0]]
    assert found.segments.nats.sum() - math.log(first) == pytest.approx(nats, rel=1e-9)
