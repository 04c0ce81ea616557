"""Directories for others: the card, what may be overwritten, kills and full disks, the Hub."""

from __future__ import annotations

import base64
import errno
import json
import os
import re
import shutil
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
from conftest import assert_fails, charlstm_command
from huggingface_hub import ModelCard

import charlstm
from charlstm import CharacterTokenizer, CharLSTMError, CheckpointError, LanguageModel, UsageError
from charlstm.backends import Ops
from charlstm.data import coffee
from charlstm.run import read_metrics

FILES = ["README.md", "config.json", "model.safetensors", "tokenizer.json"]
LETTERS = CharacterTokenizer("abcdefg")


@pytest.fixture(scope="module")
def tested_run(tmp_path_factory: pytest.TempPathFactory) -> charlstm.Run:
    """A run with a test part."""
    text = tmp_path_factory.mktemp("texts") / "a_text.txt"
    text.write_text(coffee.text(4000)[:3000])
    config = charlstm.Config(
        charlstm.ModelConfig(hidden_size=8, num_layers=1),
        charlstm.DataConfig(batch_size=4, seq_len=16, test_fraction=0.2),
        charlstm.TrainingConfig(max_steps=20, eval_every=10),
    )
    out = tmp_path_factory.mktemp("runs") / "tested"
    return charlstm.train(text, config, out=out, backend="numpy", quiet=True)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def small_model(seed: int = 0) -> LanguageModel:
    return LanguageModel(7, 5, 2, backend="numpy", seed=seed)


def weights_in(directory: Path) -> np.ndarray:
    model, _ = charlstm.load_model(directory, "numpy")
    return np.asarray(model.parameters.flat)


# ---- round trip and card ---------------------------------------------------------------------------


def test_round_trip_to_every_backend(tested_run: charlstm.Run, tmp_path: Path, ops: Ops) -> None:
    tested_run.save_pretrained(tmp_path / "a" / "model")
    assert names(tmp_path / "a" / "model") == FILES
    again = charlstm.Run.from_pretrained(tmp_path / "a" / "model", ops)
    assert again.tokenizer.hash == tested_run.tokenizer.hash
    assert np.array_equal(ops.to_numpy(again.model.parameters.flat), tested_run.model.parameters.flat)
    again.save_pretrained(tmp_path / "again")
    for name in FILES:  # the card too is kept
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "a" / "model" / name).read_bytes()


def test_the_card_is_filled_in_from_the_run(tested_run: charlstm.Run, tmp_path: Path) -> None:
    output = tmp_path / "model"
    export = ("export", tested_run.directory, "--format", "hub", "--output", output, "--backend", "numpy")
    done = charlstm_command(*export, "--license", "Apache-2.0", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"format": "hub", "output": str(output)}
    card = ModelCard.load(output / "README.md")
    data = card.data
    assert (data.license, data.library_name, data.pipeline_tag) == (
        "apache-2.0",
        "charlstm",
        "text-generation",
    )
    assert data.tags == ["lstm", "cifg", "character-level"]
    results = {(r.dataset_split, r.metric_type): r.metric_value for r in data.eval_results}
    val = min(line["val_loss"] for line in tested_run.metrics if "val_loss" in line)
    test = tested_run.evaluate(split="test")
    assert results == {
        (part, kind): pytest.approx(value, rel=1e-5)
        for part, loss in (("validation", val), ("test", test.loss))
        for kind, value in (("loss", loss), ("perplexity", np.exp(loss)), ("bits_per_char", loss / np.log(2)))
    }
    for part in (
        "# A CIFG-LSTM language model of a\\_text.txt",
        f"- {tested_run.model.num_parameters:,} parameters: 1 layers of 8 units",
        "600 test",
        "after 20 steps, 1,280 characters read",
        f"SHA-256 of the text: {tested_run.trained_on()}",
        "- licence: apache-2.0",
        f"| test | {test.loss:.4f} |",
        tested_run.generate(length=300),
        'charlstm.load("DIRECTORY")',
    ):
        assert part in card.text


def test_losses_are_those_of_the_checkpoint_that_is_saved(tested_run: charlstm.Run, tmp_path: Path) -> None:
    shutil.copytree(tested_run.directory, tmp_path / "run")
    metrics = tmp_path / "run" / "metrics.jsonl"
    lines = read_metrics(metrics)
    for line in lines:
        if "val_loss" in line:
            line["val_loss"] = 1.5 if line["step"] == 10 else 2.5
    metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    best, last = (charlstm.load(tmp_path / "run", "numpy", which=which) for which in ("best", "last"))
    assert "| validation | 1.5000 |" in best.model_card()
    assert "after 10 steps" in best.model_card()
    assert "| validation | 2.5000 |" in last.model_card()
    assert "after 20 steps" in last.model_card()
    record = tmp_path / "run" / "checkpoints" / "last" / "training.json"
    content = json.loads(record.read_text())
    # training went back to before its best step, whose line is then gone
    record.write_text(json.dumps({**content, "best_val_loss": 1.25, "best_step": 15}))
    assert "| validation | 1.2500 |" in best.model_card()
    assert "- of step 15" in best.model_card()
    record.write_text("{}")
    with pytest.raises(CheckpointError, match="does not say how it was trained"):
        best.model_card()


def test_a_text_that_is_gone_leaves_the_test_loss_out(
    tested_run: charlstm.Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(tested_run.directory, tmp_path / "run")
    config = tmp_path / "run" / "config.toml"
    config.write_text(re.sub('data = ".*"', 'data = "gone.txt"', config.read_text(), count=1))
    charlstm.load(tmp_path / "run", "numpy").save_pretrained(tmp_path / "model")
    assert "the model card tells no test loss" in caplog.text
    data = ModelCard.load(tmp_path / "model" / "README.md").data
    assert {result.dataset_split for result in data.eval_results} == {"validation"}


def test_a_model_of_a_loop_of_ones_own(tmp_path: Path) -> None:
    charlstm.Run(tmp_path, small_model(), LETTERS).save_pretrained(tmp_path / "model", license="mit")
    card = ModelCard.load(tmp_path / "model" / "README.md")
    assert card.data.license == "mit"
    assert card.data.eval_results is None
    with pytest.raises(UsageError, match="is kept as it is: name the licence there"):
        charlstm.load(tmp_path / "model", "numpy").save_pretrained(tmp_path / "other", license="mit")


def test_classifiers_have_directories_too(tmp_path: Path) -> None:
    model = charlstm.SequenceClassifier(3, 4, 5, 2, backend="numpy")
    charlstm.save_model(tmp_path / "model", model)
    assert names(tmp_path / "model") == ["README.md", "config.json", "model.safetensors"]
    again, tokenizer = charlstm.load_model(tmp_path / "model", "numpy")
    assert tokenizer is None
    assert (again.input_size, again.output_size, again.emit, again.config) == (3, 4, "last", model.config)
    assert np.array_equal(again.parameters.flat, model.parameters.flat)
    assert ModelCard.load(tmp_path / "model" / "README.md").data.library_name == "charlstm"
    with pytest.raises(CheckpointError, match="does not describe a language model"):
        charlstm.load(tmp_path / "model", "numpy")
    for broken, tokens in ((model, LETTERS), (small_model(), None)):
        with pytest.raises(UsageError, match="saved with its tokenizer"):
            charlstm.save_model(tmp_path / "broken", broken, tokens)
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    for change in ({"tokenizer_hash": "0"}, {"input_size": 2}, {"input_size": "3"}, {"output_size": None},
                   {"outputs": "words"}, {"outputs": "numbers", "embedding_size": 4}):  # fmt: skip
        (tmp_path / "model" / "config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(CheckpointError):
            charlstm.load_model(tmp_path / "model", "numpy")


def test_another_vocabulary_is_refused(tmp_path: Path) -> None:
    charlstm.save_model(tmp_path / "model", small_model(), LETTERS)
    (tmp_path / "model" / "tokenizer.json").write_text(CharacterTokenizer("gfedcba").to_json())
    with pytest.raises(CheckpointError, match="not the one that the weights were trained with"):
        charlstm.Run.from_pretrained(tmp_path / "model", "numpy")


@pytest.mark.parametrize("license", ["", "mit\nevil: 1", "a b", "MIT: x", "-"])
def test_licences_that_are_no_identifiers(license: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a licence reads mit"):
        charlstm.Run(tmp_path, small_model(), LETTERS).save_pretrained(tmp_path / "model", license=license)
    assert names(tmp_path) == []


# ---- overwriting -----------------------------------------------------------------------------------


def test_what_is_overwritten(tested_run: charlstm.Run, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    charlstm.save_model(model, small_model(0), LETTERS)  # an empty directory may be used
    charlstm.save_model(model, small_model(1), LETTERS)  # and a model's be replaced
    assert np.array_equal(weights_in(model), small_model(1).parameters.flat)
    (model / "thesis.txt").write_text("mine")
    export = ("export", tested_run.directory, "--format", "hub", "--backend", "numpy", "--output")
    assert_fails(charlstm_command(*export, model), 2, "holds other files than a model's", "--force")
    assert np.array_equal(weights_in(model), small_model(1).parameters.flat)
    done = charlstm_command(*export, model, "--force")
    assert done.returncode == 0, done.stderr
    assert names(model) == sorted([*FILES, "thesis.txt"])
    assert (model / "thesis.txt").read_text() == "mine"
    assert charlstm.load(model, "numpy").tokenizer.hash == tested_run.tokenizer.hash
    assert_fails(charlstm_command(*export, model / "thesis.txt"), 2, "is a file")
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "config.json").write_text('{"model_type": "bert"}')
    for taken in (foreign, tested_run.directory / "checkpoints" / "last"):
        with pytest.raises(UsageError, match="holds other files than a model's"):
            charlstm.save_model(taken, small_model(), LETTERS)


class Killed(BaseException):
    """Stands for the process's end."""


@pytest.mark.parametrize("among_others", [False, True])
def test_a_kill_between_any_two_steps_mixes_no_two_models(
    among_others: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, other = tmp_path / "model", CharacterTokenizer("gfedcba")
    old, new = small_model(0), small_model(1)
    outcomes = set()
    for stop_at in range(60):
        if directory.exists():
            shutil.rmtree(directory)
        charlstm.save_model(directory, old, LETTERS)
        if among_others:
            (directory / "thesis.txt").write_text("mine")
        calls = 0

        def counted(function, stop_at=stop_at):  # type: ignore[no-untyped-def]
            def call(*args, **kwargs):  # type: ignore[no-untyped-def]
                nonlocal calls
                calls += 1
                if calls > stop_at:
                    raise Killed
                return function(*args, **kwargs)

            return call

        with monkeypatch.context() as patch:
            for owner, name in ((os, "fsync"), (Path, "rename"), (Path, "replace"), (Path, "unlink")):
                patch.setattr(owner, name, counted(getattr(owner, name)))
            try:
                charlstm.save_model(directory, new, other, force=True)
                outcomes.add("finished")
            except Killed:
                pass
        try:
            model, tokenizer = charlstm.load_model(directory, "numpy")
        except CheckpointError:
            outcomes.add("none")
        else:
            assert tokenizer is not None
            is_new = np.array_equal(model.parameters.flat, new.parameters.flat)
            assert is_new or np.array_equal(model.parameters.flat, old.parameters.flat)
            assert tokenizer.hash == (other if is_new else LETTERS).hash
            outcomes.add("new" if is_new else "old")
        if among_others:
            assert (directory / "thesis.txt").read_text() == "mine"
        if "finished" in outcomes:
            break
    assert outcomes == {"old", "new", "finished"} | ({"none"} if among_others else set())


@pytest.mark.parametrize("among_others", [False, True])
def test_a_full_disk_keeps_the_old_model(
    among_others: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "model"
    charlstm.save_model(directory, small_model(0), LETTERS)
    if among_others:
        (directory / "thesis.txt").write_text("mine")
    before = names(directory)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match="model cannot be written: No space left on device"):
        charlstm.save_model(directory, small_model(1), LETTERS, force=True)
    assert np.array_equal(weights_in(directory), small_model(0).parameters.flat)
    assert names(directory) == before
    assert names(tmp_path) == ["model"]


# ---- the Hub ---------------------------------------------------------------------------------------


class FakeHub(BaseHTTPRequestHandler):
    """As much of the Hub as a commit takes: it makes repositories, and keeps the files of commits."""

    files: dict[str, bytes]
    refuses: bool

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        hub = self.server.hub  # type: ignore[attr-defined]
        hub.requests.append(self.path.split("?")[0])
        if hub.refuses:
            self._answer(403, {"error": "You have no right to do this."})
        elif self.path == "/api/repos/create":
            hub.created = json.loads(body)
            self._answer(200, {"url": f"{hub.address}/user/my-model", "name": "user/my-model"})
        elif self.path == "/api/validate-yaml":
            self._answer(200, {"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            listed = [file["path"] for file in json.loads(body)["files"]]
            modes = [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in listed]
            self._answer(200, {"files": modes})
        else:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "header":
                    hub.message = line["value"]["summary"]
                else:
                    hub.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            commit = {
                "success": True,
                "commitOid": "0" * 40,
                "commitUrl": f"{hub.address}/user/my-model/commit/0",
            }
            self._answer(200, {**commit, "hookOutput": "", "pullRequestUrl": None})

    def _answer(self, status: int, content: dict[str, object]) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(content).encode())

    def log_message(self, format: str, *arguments: object) -> None:
        pass


class Hub:
    def __init__(self, address: str) -> None:
        self.address, self.refuses = address, False
        self.requests: list[str] = []
        self.files: dict[str, bytes] = {}
        self.created: dict[str, object] = {}
        self.message = ""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A server in this process, in the Hub's place."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), FakeHub)
    found = Hub(f"http://127.0.0.1:{server.server_address[1]}")
    server.hub = found  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", found.address)
    monkeypatch.setenv("HF_TOKEN", "hf_none")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield found
    server.shutdown()
    server.server_close()


def test_pushing_to_the_hub(tested_run: charlstm.Run, tmp_path: Path, hub: Hub) -> None:
    address = tested_run.push_to_hub("user/my-model", license="mit", private=True, message="A first model")
    assert address == f"{hub.address}/user/my-model"
    assert (hub.created["name"], hub.message) == ("my-model", "A first model")
    assert sorted(hub.files) == FILES
    for name, content in hub.files.items():
        (tmp_path / name).write_bytes(content)
    assert np.array_equal(weights_in(tmp_path), tested_run.model.parameters.flat)
    card = ModelCard.load(tmp_path / "README.md")
    assert (card.data.license, card.data.model_name) == ("mit", "my-model")
    assert 'snapshot_download("user/my-model")' in card.text


def test_a_hub_that_refuses_or_is_not_there(
    tested_run: charlstm.Run, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.refuses = True
    with pytest.raises(CharLSTMError, match=r"user/my-model could not be pushed to the Hub: .*403"):
        tested_run.push_to_hub("user/my-model")
    assert hub.requests == ["/api/repos/create"]
    with pytest.raises(CharLSTMError, match="could not be pushed to the Hub"):
        tested_run.push_to_hub("no/such/name")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UsageError, match=r'pip install "charlstm\[hub\]"'):
        tested_run.push_to_hub("user/my-model")
