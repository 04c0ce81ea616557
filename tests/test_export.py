"""ONNX files: what other runtimes compute from them, what is beside them, and what is not overwritten."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.reference
import onnxruntime
import pytest
from conftest import assert_fails, charlstm_command
from onnx import numpy_helper
from test_imports import modules_after

import charlstm
import charlstm.export
from charlstm import CharacterTokenizer, LanguageModel, SequenceClassifier, UsageError
from charlstm.export import onnx_file, to_onnx

ROOT = Path(__file__).resolve().parents[1]
H, LIMIT = 16, 1e-4
NETWORKS: dict[str, dict[str, Any]] = {
    "one-hot": {"vocab_size": 20, "num_layers": 1},
    "more tokens than gates": {"vocab_size": 3 * H + 5, "num_layers": 2},
    "embedding": {"vocab_size": 20, "num_layers": 3, "embedding_size": 7},
    "tied": {"vocab_size": 20, "num_layers": 2, "embedding_size": H, "tied_embeddings": True},
    "tied, projected": {"vocab_size": 20, "num_layers": 2, "embedding_size": 7, "tied_embeddings": True},
}


def language_model(name: str, dtype: str = "float32") -> LanguageModel:
    model = LanguageModel(hidden_size=H, backend="numpy", dtype=dtype, **NETWORKS[name])
    model.parameters.flat[...] = np.random.default_rng(1).normal(0, 0.5, model.num_parameters)
    return model


def ort_session(model: Path | onnx.ModelProto) -> onnxruntime.InferenceSession:
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    return onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])


def zeros(model: Any, batch: int) -> np.ndarray:
    return np.zeros((model.config.num_layers, batch, model.config.hidden_size), np.float32)


def largest_difference(model: Any, runtime: Any, tokens: np.ndarray, lengths: list[int]) -> float:
    """Of logits and states, the tokens (T, B) being read in calls of these lengths, the states carried."""
    worst, start, state = 0.0, 0, None
    h = c = zeros(model, tokens.shape[1])
    for length in lengths:
        x = tokens[start : start + length]
        logits, state = model.forward(x, state)
        theirs, h, c = runtime.run(None, {"tokens": x, "h": h, "c": c})
        assert theirs.shape == logits.shape == (*x.shape, model.output_size)
        for ours, other in ((logits, theirs), (state.h, h), (state.c, c)):
            worst = max(worst, float(np.abs(ours - other).max()))
        start += length
    assert start == len(tokens)
    return worst


@pytest.mark.parametrize("name", NETWORKS)
def test_runtimes_agree_with_carried_state(name: str, tmp_path: Path, rng: np.random.Generator) -> None:
    model, path = language_model(name), tmp_path / "model.onnx"
    to_onnx(model, path)
    onnx.checker.check_model(str(path), full_check=True)
    tokens = rng.integers(0, model.output_size, (1000, 2))
    lengths = [1, 1, 2, 96, 300, 600]
    assert largest_difference(model, ort_session(path), tokens, lengths) < LIMIT
    reference = onnx.reference.ReferenceEvaluator(str(path))
    assert largest_difference(model, reference, tokens[:40], [1, 3, 36]) < LIMIT
    alone = rng.integers(0, model.output_size, (7, 1))  # another batch size
    assert largest_difference(model, ort_session(path), alone, [7]) < LIMIT


@pytest.mark.parametrize("without", ["attribute", "forget block"])
def test_either_way_of_coupling_the_gates_is_enough(
    without: str, tmp_path: Path, rng: np.random.Generator
) -> None:
    model, path = language_model("embedding"), tmp_path / "model.onnx"
    to_onnx(model, path)
    proto = onnx.load(path)
    for node in proto.graph.node:
        if node.op_type == "LSTM" and without == "attribute":
            del node.attribute[[a.name for a in node.attribute].index("input_forget")]
    for tensor in proto.graph.initializer:
        if re.fullmatch(r"cifg\.\d\.[WRb]", tensor.name) and without == "forget block":
            values = numpy_helper.to_array(tensor).copy()
            values[:, 2 * H : 3 * H] = rng.normal(size=values[:, 2 * H : 3 * H].shape)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    tokens = rng.integers(0, model.output_size, (50, 2))
    assert largest_difference(model, ort_session(proto), tokens, [20, 30]) < LIMIT


@pytest.mark.parametrize("emit", ["every", "last"])
def test_classifiers(emit: Any, tmp_path: Path, rng: np.random.Generator) -> None:
    model = SequenceClassifier(6, 4, H, 2, emit=emit, backend="numpy")
    charlstm.save_model(tmp_path / "classifier", model)
    path = tmp_path / "classifier.onnx"
    done = charlstm_command("export", tmp_path / "classifier", "--format", "onnx", "--output", path)
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["classifier", "classifier.onnx"]  # no tokenizer
    for runtime in (ort_session(path), onnx.reference.ReferenceEvaluator(str(path))):
        h = c = zeros(model, 3)
        state = None
        for T in (5, 1, 30):
            x = rng.normal(size=(T, 3, 6)).astype(np.float32)
            (logits, after), (posterior, _) = model.forward(x, state), model.posterior(x, state)
            state = after
            theirs = runtime.run(None, {"vectors": x, "h": h, "c": c})
            h, c = theirs[2:]
            for ours, other in zip((logits, posterior, *state), theirs, strict=True):
                assert ours.shape == other.shape
                assert np.abs(ours - other).max() < LIMIT


def test_a_regressor_gives_numbers(tmp_path: Path, rng: np.random.Generator) -> None:
    model = charlstm.SequenceRegressor(6, 2, H, 2, backend="numpy")
    charlstm.save_model(tmp_path / "regressor", model)
    again, _ = charlstm.load_model(tmp_path / "regressor", "numpy")
    assert isinstance(again, charlstm.SequenceRegressor)
    to_onnx(again, tmp_path / "regressor.onnx")
    session = ort_session(tmp_path / "regressor.onnx")
    assert [output.name for output in session.get_outputs()] == ["logits", "next_h", "next_c"]
    x = rng.normal(size=(9, 3, 6)).astype(np.float32)
    numbers = session.run(["logits"], {"vectors": x, "h": zeros(model, 3), "c": zeros(model, 3)})[0]
    assert np.abs(numbers - model.forward(x)[0]).max() < LIMIT


def test_the_network_of_an_estimator(tmp_path: Path, rng: np.random.Generator) -> None:
    pytest.importorskip("sklearn")
    X, y = rng.normal(size=(12, 5, 3)), np.array(["a", "b", "c"] * 4)
    estimator = charlstm.CIFGClassifier(hidden_size=H, max_iter=2, backend="numpy", random_state=0).fit(X, y)
    to_onnx(estimator.model_, tmp_path / "model.onnx")
    feed = {"vectors": X.transpose(1, 0, 2).astype(np.float32)}
    feed |= {name: zeros(estimator.model_, len(X)) for name in ("h", "c")}
    posterior = ort_session(tmp_path / "model.onnx").run(["posterior"], feed)[0]
    assert np.abs(posterior - estimator.predict_proba(X)).max() < LIMIT


def test_a_trained_run_on_the_command_line(
    small_run: charlstm.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its weights are in float64; docs/onnx.md then writes the text that we do."""
    path = tmp_path / "new" / "model.onnx"
    export = ("export", small_run.directory, "--format", "onnx", "--output", path)
    done = charlstm_command(*export)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert "rounded from float64 to float32" in done.stderr
    assert str(path) in done.stderr
    assert sorted(p.name for p in path.parent.iterdir()) == ["model.onnx", "tokenizer.json"]
    assert charlstm.load_tokenizer(path.parent / "tokenizer.json").hash == small_run.tokenizer.hash
    assert ort_session(path).get_modelmeta().custom_metadata_map == {
        "charlstm_version": charlstm.__version__, "vocabulary_hash": small_run.tokenizer.hash,
    }  # fmt: skip
    assert json.loads(charlstm_command(*export, "--json").stdout) == {"format": "onnx", "output": str(path)}

    (code,) = re.findall(r"```python\n(import json.*?)```", (ROOT / "docs" / "onnx.md").read_text(), re.S)
    assert len([line for line in code.splitlines() if line]) == 10
    monkeypatch.chdir(path.parent)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "The " + done.stdout == small_run.generate("The ", length=200, temperature=0)


def test_what_is_not_overwritten(tmp_path: Path) -> None:
    model, path, letters = language_model("one-hot"), tmp_path / "model.onnx", "abcdefghijklmnopqrst"
    beside = tmp_path / "tokenizer.json"
    tokenizer = CharacterTokenizer(letters)
    path.write_bytes(b"somebody's")
    with pytest.raises(UsageError, match=r"no ONNX file of charlstm: choose another, or --force"):
        to_onnx(model, path, tokenizer)
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([], "g", [], []), producer_name="other"), path)
    with pytest.raises(UsageError, match=r"no ONNX file of charlstm"):
        to_onnx(model, path, tokenizer)
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]
    to_onnx(model, path, tokenizer, force=True)
    to_onnx(model, path, tokenizer)  # its own: replaced
    before = path.read_bytes()
    for other in (CharacterTokenizer(reversed(letters)).to_json(), "{}"):
        beside.write_text(other)
        with pytest.raises(UsageError, match=r"of another vocabulary.*choose another folder, or --force"):
            to_onnx(language_model("tied"), path, tokenizer)
        assert (path.read_bytes(), beside.read_text()) == (before, other)
    to_onnx(model, path, tokenizer, force=True)
    assert charlstm.load_tokenizer(beside).hash == tokenizer.hash
    with pytest.raises(UsageError, match="a tokenizer of 3 tokens is not that of a model of 20"):
        to_onnx(model, tmp_path / "b" / "model.onnx", CharacterTokenizer("abc"))
    assert not (tmp_path / "b").exists()


def test_a_disk_that_is_full_keeps_the_earlier_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.onnx"
    to_onnx(language_model("one-hot"), path)
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(charlstm.CharLSTMError, match=r"model\.onnx cannot be written: No space left"):
        to_onnx(language_model("tied"), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]
    with pytest.raises(charlstm.CharLSTMError, match="cannot be made"):
        to_onnx(language_model("tied"), path / "below" / "model.onnx")


def test_models_that_cannot_be_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.onnx"
    for value in (np.nan, 1e39):  # the latter is infinite in float32
        model = language_model("one-hot", "float64")
        model.parameters["head.bias"][0] = value
        with pytest.raises(UsageError, match="not finite in float32"):
            to_onnx(model, path)
    with monkeypatch.context() as patch:
        patch.setattr(onnx_file, "LARGEST", 1000)
        with pytest.raises(UsageError, match="larger than 2 GB"):
            to_onnx(language_model("one-hot"), path)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UsageError, match=r'pip install "charlstm\[onnx\]"'):
        to_onnx(language_model("one-hot"), path)
    assert not path.exists()


def test_options_that_do_not_go_together(small_run: charlstm.Run, tmp_path: Path) -> None:
    export = ("export", small_run.directory, "--output", tmp_path / "model.onnx", "--format")
    assert_fails(charlstm_command(*export, "onnx", "--license", "mit"), 2, "--license goes with --format hub")
    assert_fails(charlstm_command(*export, "pickle"), 2, "pickle")
    assert_fails(charlstm_command("export", tmp_path, *export[2:], "onnx"), 1, "neither a run directory")


def test_the_libraries_are_imported_only_where_they_are_used() -> None:
    loaded = modules_after("import charlstm.cli, charlstm.export, charlstm.run")
    assert not loaded & {"onnx", "onnxruntime", "huggingface_hub"}


BROWSER = """
import { Characters, draw, generate } from "%s";
const content = JSON.parse(process.argv[1]);
const characters = new Characters(content);
const draws = [0, 0, 0];
for (let n = 0; n < 3000; n++) draws[draw([Math.log(1), Math.log(4), Math.log(1)], 2, () => (n + 0.5) / 3000)]++;
// a model whose next character is the one after the last that it read; its state counts the calls
const runtime = { Tensor: class { constructor(type, data, dims) { Object.assign(this, { type, data, dims }); } } };
const session = {
  inputMetadata: [{ name: "h", shape: [2, "batch", 3] }],
  async run({ tokens, h, c }) {
    const V = content.vocabulary.length, logits = new Float32Array(V * tokens.dims[0]);
    tokens.data.forEach((id, t) => (logits[V * t + ((Number(id) + 1) %% V)] = 1));
    const next_h = { dims: h.dims, calls: (h.calls ?? 0) + 1 };
    seen.push([tokens.type, tokens.dims, h.dims, h.calls ?? 0]);
    return { logits: { data: logits }, next_h, next_c: c };
  },
};
const seen = [];
let text = "";
const { tokens, unknown } = characters.encode("a\\u0301?b");
const options = { length: 4, temperature: 0 };
for await (const next of generate(runtime, session, characters, tokens, options)) text += next;
let start = "";
for await (const next of generate(runtime, session, characters, [], options)) start += next;
let refused = "";
try { new Characters({ type: "words" }); } catch (error) { refused = error.message; }
const ascii = new Characters({ type: "ascii" }).encode("a\\u00e1").tokens;
console.log(JSON.stringify({ draws, tokens, unknown, text, start, seen: seen.slice(0, 2), refused, ascii }));
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="Node.js is not installed")
def test_the_browser_page_s_tokenizer_draws_and_loop() -> None:
    module = ROOT / "examples" / "browser" / "model.js"
    tokenizer = CharacterTokenizer(["b", "\n", "á", "😀"], "NFC")
    command = ["node", "--input-type=module", "-e", BROWSER % module.as_uri(), tokenizer.to_json()]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=True, timeout=60)
    found = json.loads(done.stdout)
    weights = np.sqrt([1, 4, 1])  # at temperature 2
    assert np.allclose(np.array(found["draws"]) / 3000, weights / weights.sum(), atol=1e-3)
    assert found["tokens"] == tokenizer.encode("a\u0301?b", "skip").tolist() == [2, 0]
    assert found["unknown"] == ["?"]
    assert found["text"] == "\ná😀b"
    assert found["start"] == "á😀b\n"  # begins after a line's end
    assert found["seen"] == [["int64", [2, 1], [2, 1, 3], 0], ["int64", [1, 1], [2, 1, 3], 1]]
    assert 'of type "words"' in found["refused"]
    assert found["ascii"] == [97]
