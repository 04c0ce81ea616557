"""Training that starts from another run."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY, assert_fails, charlstm_command

import charlstm
from charlstm import Config, DataConfig, ModelConfig, TrainingConfig
from charlstm.data import Corpus, coffee
from charlstm.training import Reporter, Trainer, prepare, reopen

NEW = coffee.text(20_000, seed=1)
STRANGE = NEW.replace("Anna", "Ännä")


def started(small_run: charlstm.Run, config: Config, text: Path, **options: object) -> Trainer:
    return prepare(
        text, config, text.with_suffix(".run"), "numpy", None, Reporter(), small_run.directory, **options
    )  # type: ignore[arg-type]


@pytest.fixture
def sizes_left_out(small_config: Config) -> Config:
    return replace(small_config, model=ModelConfig(dropout=0.4))


def test_it_starts_with_the_runs_weights(
    tmp_path: Path, small_run: charlstm.Run, sizes_left_out: Config
) -> None:
    text = tmp_path / "new.txt"
    text.write_text(NEW)
    trainer = started(small_run, sizes_left_out, text)
    assert np.array_equal(trainer.model.parameters.flat, small_run.model.parameters.flat)
    assert trainer.model.config == replace(small_run.model.config, dropout=0.4)
    assert trainer.corpus.tokenizer.hash == small_run.tokenizer.hash
    before = small_run.evaluate(text).loss
    assert trainer.train()
    assert trainer.best_val_loss is not None
    assert trainer.best_val_loss < before
    assert reopen(trainer.directory, charlstm.TrainingConfig(max_steps=70)).train()


def test_new_characters(tmp_path: Path, small_run: charlstm.Run, sizes_left_out: Config) -> None:
    text = tmp_path / "strange.txt"
    text.write_text(STRANGE)
    with pytest.raises(charlstm.DataError, match=r"does not know: 'Ä', 'ä' .*--extend-vocab"):
        started(small_run, sizes_left_out, text)
    trainer = started(small_run, sizes_left_out, text, extend_vocab=True)
    known, V = small_run.model.parameters, len(small_run.tokenizer)
    assert trainer.corpus.tokenizer.vocabulary == (*small_run.tokenizer.vocabulary, "Ä", "ä")
    for name, array in trainer.model.parameters.items():
        corner = tuple(slice(size) for size in known[name].shape)
        assert np.array_equal(array[corner], known[name]), name
    assert np.abs(trainer.model.parameters["cifg.0.W"][V:]).min() > 0
    assert trainer.train()
    run = charlstm.load(trainer.directory)
    assert set(run.generate("Ännä", length=50)) <= set(run.tokenizer.vocabulary)


WORDS = DataConfig(tokenizer="words", batch_size=4, seq_len=8)
SMALL = Config(ModelConfig(hidden_size=8, num_layers=1), WORDS, TrainingConfig(max_steps=3))


@pytest.fixture(scope="module")
def words_run(tmp_path_factory: pytest.TempPathFactory) -> charlstm.Run:
    out = tmp_path_factory.mktemp("runs") / "words"
    return charlstm.train("coffee", SMALL, out=out, backend="numpy", quiet=True)


def test_unknown_words_are_the_same_when_a_run_goes_on(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(NEW + "Zebras graze.\n")
    trainer = prepare(text, SMALL, tmp_path / "run", "numpy", None, Reporter())
    assert trainer.corpus.unknown["zebras"] == 1
    assert trainer.train()
    again = reopen(trainer.directory, TrainingConfig(max_steps=5))
    for split in ("train", "val"):
        assert np.array_equal(getattr(again.corpus, split), getattr(trainer.corpus, split))


def test_new_words(tmp_path: Path, words_run: charlstm.Run) -> None:
    """They are unknown ones, or are learned; the kind of tokenizer is the run's without being named."""
    text = tmp_path / "strange.txt"
    text.write_text(STRANGE)
    config = replace(SMALL, model=ModelConfig(), data=replace(WORDS, tokenizer="characters"))
    trainer = started(words_run, config, text)
    assert trainer.corpus.tokenizer.hash == words_run.tokenizer.hash
    assert trainer.corpus.unknown["ännä"] == STRANGE.count("Ännä")
    assert trainer.config.data.tokenizer == "words"
    shutil.rmtree(trainer.directory)
    trainer = started(words_run, config, text, extend_vocab=True)
    assert trainer.corpus.tokenizer.vocabulary == (*words_run.tokenizer.vocabulary, "ännä")
    assert trainer.train()
    assert charlstm.load(trainer.directory, "numpy").generate("Ännä", length=0) == "Ännä"
    shutil.rmtree(trainer.directory)
    with pytest.raises(charlstm.UsageError, match="tokenizer is words"):
        started(words_run, replace(config, data=DataConfig(tokenizer="bytes")), text)


def test_vocabularies_that_are_fixed(tmp_path: Path) -> None:
    config = replace(SMALL, data=replace(WORDS, tokenizer="ascii"))
    run = charlstm.train("coffee", config, out=tmp_path / "ascii", backend="numpy", quiet=True)
    text = tmp_path / "strange.txt"
    text.write_text(STRANGE)
    config = replace(config, model=ModelConfig())
    with pytest.raises(charlstm.DataError, match="ascii tokenizer is fixed"):
        started(run, config, text, extend_vocab=True)
    with pytest.raises(charlstm.DataError, match=r"'Ä' .*--on-unknown"):
        started(run, config, text)
    replacing = replace(config, data=replace(config.data, on_unknown="replace"))
    trainer = started(run, replacing, text)
    assert trainer.corpus.tokenizer.hash == run.tokenizer.hash
    assert trainer.train()
    again = reopen(trainer.directory, charlstm.TrainingConfig(max_steps=5))
    assert np.array_equal(again.corpus.train, trainer.corpus.train)
    assert again.corpus.unknown == trainer.corpus.unknown
    assert charlstm.load(trainer.directory, "numpy").evaluate().tokens == len(trainer.corpus.val) - 1
    with pytest.raises(charlstm.DataError, match="another vocabulary"):
        charlstm.train(Corpus.from_text("abcabc"), config, init_from=run.directory, quiet=True)


def test_what_cannot_be(tmp_path: Path, small_run: charlstm.Run, small_config: Config) -> None:
    text = tmp_path / "new.txt"
    text.write_text(NEW)
    wider = replace(small_config, model=replace(small_config.model, hidden_size=25))
    with pytest.raises(charlstm.UsageError, match="hidden_size is 24"):
        started(small_run, wider, text)
    with pytest.raises(charlstm.DataError, match="another vocabulary"):
        charlstm.train(Corpus.from_text("abcabc"), small_config, init_from=small_run.directory, quiet=True)
    with pytest.raises(charlstm.UsageError, match="goes with init_from"):
        charlstm.train(text, small_config, extend_vocab=True, quiet=True)
    with pytest.raises(charlstm.CheckpointError, match="no run directory"):
        charlstm.train(text, small_config, init_from=tmp_path / "nowhere", quiet=True)


def test_on_the_command_line(tmp_path: Path, small_run: charlstm.Run) -> None:
    text = tmp_path / "strange.txt"
    text.write_text(STRANGE)
    command = ["train", "--data", text, "--init-from", small_run.directory, "--max-steps", 5, "--quiet"]
    assert_fails(charlstm_command(*command, "--out", tmp_path / "a"), 3, "--extend-vocab")
    assert not (tmp_path / "a").exists()
    done = charlstm_command(*command, "--extend-vocab", "--out", tmp_path / "b", "--backend", "numpy")
    assert done.returncode == 0, done.stderr
    assert_fails(charlstm_command(*command, *TINY), 2, "hidden_size is 24")
