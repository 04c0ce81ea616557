"""Configuration files, presets, and what counts as given on the command line."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import TINY, assert_fails, charlstm_command

import charlstm
from charlstm import Config, ModelConfig, TrainingConfig, presets
from charlstm.cli.configuration import DataOptions, ModelOptions, TrainingOptions, configured, tables
from charlstm.config import ONLY_WITH, merged, without_effect
from charlstm.training import Reporter, prepare


def toml(path: Path, content: str) -> Path:
    path.write_text(content)
    return path


def test_defaults_then_preset_then_file_then_flags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toml(tmp_path / "mine.toml", "# for tests\n[model]\nhidden_size = 1\nnum_layers = 1\ndropout = 0.1\n")
    monkeypatch.setattr(presets, "FOLDER", tmp_path)
    file = toml(tmp_path / "file", "[model]\nnum_layers = 3\ndropout = 0.3\n[data]\nseq_len = 7\n")
    flags = tables(None, ModelOptions(dropout=0.2), None)
    config, given = configured("mine", file, flags)
    assert config.model == ModelConfig(hidden_size=1, num_layers=3, dropout=0.2)
    assert config.data.seq_len == 7
    assert config.training == TrainingConfig()
    assert given == {
        "model": {"hidden_size": 1, "num_layers": 3, "dropout": 0.2},
        "data": {"seq_len": 7},
    }
    assert presets.descriptions() == {"mine": "for tests"}
    assert Config.preset("mine").model.hidden_size == 1


def test_a_limit_takes_the_place_of_all_limits_before_it() -> None:
    file = {"training": {"max_time": "5m", "epochs": 2.0, "seed": 3}}
    assert merged(file, {"training": {"max_steps": 9}}) == {"training": {"seed": 3, "max_steps": 9}}
    assert merged(file, {"training": {"seed": 4}}) == {"training": {**file["training"], "seed": 4}}
    assert file["training"]["epochs"] == 2.0


@pytest.mark.parametrize("name", presets.descriptions())
def test_every_preset_that_comes_with_charlstm(name: str) -> None:
    assert len(presets.descriptions()[name]) > 10
    config = Config.preset(name)
    given = presets.read(name)
    ignored = without_effect(config.training)
    assert not set(given.get("training", {})) & set(ignored)
    assert any(limit in given["training"] for limit in ("max_time", "max_steps", "epochs"))


def test_tables_from_python_are_checked() -> None:
    assert Config.from_tables({"data": {"seq_len": 5}}, "mine").data.seq_len == 5
    with pytest.raises(charlstm.UsageError, match="mine: unknown table 'trainign': did you mean training"):
        Config.from_tables({"trainign": {}}, "mine")


def test_cpu_quick_is_the_defaults() -> None:
    config = Config.preset("cpu-quick")
    assert config == Config(training=TrainingConfig(max_time="1m"))


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("[model]\nhiden_size = 3\n", ("unknown option 'hiden_size': did you mean hidden_size?",)),
        ("[modle]\nhidden_size = 3\n", ("unknown table 'modle': did you mean model?",)),
        ("hidden_size = 3\n", ("'hidden_size': it belongs in the table [model]",)),
        ("backend = 'numpy'\n", ("unknown table 'backend'", "known are model, data, training")),
        ("[model]\nhidden_size = 'big'\n", ("hidden_size cannot be 'big'",)),
        ("[model]\nhidden_size = -1\n", ("hidden_size must be greater than 0",)),
        ("[training]\noptimizer = 'lion'\n", ("optimizer cannot be 'lion'", "adam, adamw, sgd")),
        ("model = 3\n", ("a table of options is expected",)),
        ("[model\n", ("cannot be read as a configuration",)),
        ("[model]\n\xff", ("cannot be read as a configuration",)),
        (None, ("cannot be read as a configuration: No such file",)),
    ],
)
def test_files_that_are_no_configuration(tmp_path: Path, content: str | None, parts: tuple[str, ...]) -> None:
    path = tmp_path / "c.toml"
    if content is not None:
        path.write_bytes(content.encode("latin-1"))
    done = charlstm_command("train", "--config", path, "--out", tmp_path / "run")
    assert_fails(done, 2, *parts)
    assert not (tmp_path / "run").exists()


def test_a_runs_configuration_repeats_it(tmp_path: Path, text: Path) -> None:
    train = ("train", "--data", text, "--max-steps", 12, "--seed", 4, *TINY)
    assert charlstm_command(*train, "--out", tmp_path / "a").returncode == 0
    again = ("train", "--config", tmp_path / "a" / "config.toml", "--backend", "numpy")
    assert charlstm_command(*again, "--out", tmp_path / "b").returncode == 0
    for name in ("config.toml", "checkpoints/last/model.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert charlstm_command(*again, "--seed", 5, "--out", tmp_path / "c").returncode == 0
    assert Config.from_toml(tmp_path / "c" / "config.toml").training.seed == 5


def test_presets_on_the_command_line(tmp_path: Path) -> None:
    help_text = " ".join(charlstm_command("train", "--help").stdout.split())
    for name in presets.descriptions():
        assert f"{name}:" in help_text
    assert_fails(charlstm_command("train", "--preset", "gpu-slow"), 2, "no preset 'gpu-slow'", "cpu-quick")
    options = ("train", "--preset", "cpu-quick", *TINY, "--max-steps", 3, "--dry-run")
    config = tomllib.loads(charlstm_command(*options).stdout)
    assert config["training"]["max_steps"] == 3
    assert "max_time" not in config["training"]
    assert config["model"]["hidden_size"] == 12


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--momentum", 0.9], "momentum does nothing with optimizer adam: it goes with sgd"),
        (["--momentum", 0.0], "momentum does nothing with optimizer adam"),
        (["--plateau", 3], "plateau does nothing with schedule cosine"),
        (["--ema-decay", 0.9], "ema_decay does nothing with averaging none"),
        (["--averaging", "ema", "--average-after", 4], "average_after does nothing with averaging ema"),
        (
            ["--schedule", "one-cycle", "--warmup-steps", 5],
            "warmup_steps does nothing with schedule one-cycle",
        ),
    ],
)
def test_options_of_something_else(tmp_path: Path, options: list[object], problem: str) -> None:
    assert_fails(charlstm_command("train", *options, "--out", tmp_path / "run"), 2, problem)
    assert not (tmp_path / "run").exists()


def test_from_python_such_options_are_told(tmp_path: Path, small_config: Config) -> None:
    notices: list[str] = []

    class Listening(Reporter):
        def notice(self, text: str) -> None:
            notices.append(text)

    config = Config(small_config.model, small_config.data, TrainingConfig(momentum=0.9, beta1=0.9))
    prepare("coffee", config, tmp_path / "run", "numpy", None, Listening())
    assert notices == ["momentum does nothing with optimizer adam: it goes with sgd"]


def test_the_table_names_options_and_their_values() -> None:
    for option, (other, values) in ONLY_WITH.items():
        assert hasattr(TrainingConfig(), option)
        for value in values:
            assert option not in without_effect(TrainingConfig(**{other: value}))  # type: ignore[arg-type]


def test_an_option_that_equals_its_default_is_given_all_the_same() -> None:
    flags = tables(DataOptions(), None, TrainingOptions(learning_rate=0.006, max_time=None))
    assert flags == {"data": {}, "training": {"learning_rate": 0.006, "max_time": None}}


def test_resuming_takes_the_runs_options_only(tmp_path: Path, text: Path) -> None:
    run = tmp_path / "run"
    command = ("train", "--data", text, "--out", run, "--dropout", 0.5, "--learning-rate", 0.01, *TINY)
    assert charlstm_command(*command, "--max-steps", 3).returncode == 0
    resume = ("train", "--resume", run, "--max-steps", 5)
    saved = json.loads((run / "env.json").read_text())
    for option, before, default in (("--dropout", "0.5", 0.2), ("--learning-rate", "0.01", 0.006)):
        name = option.strip("-").replace("-", "_")
        done = charlstm_command(*resume, option, default)
        assert_fails(done, 2, f"{name} belongs to the run, where it is {before}: it cannot become {default}")
    assert_fails(charlstm_command(*resume, "--data", "coffee"), 2, "data belongs to the run")
    assert_fails(charlstm_command(*resume, "--preset", "cpu-quick"), 2, "--resume goes on with")
    assert json.loads((run / "env.json").read_text()) == saved
    done = charlstm_command(*resume, "--dropout", 0.5, "--data", text, "--hidden-size", 12)
    assert done.returncode == 0, done.stderr


def test_resuming_where_nothing_validates_and_where_another_text_does(tmp_path: Path, text: Path) -> None:
    run = tmp_path / "run"
    command = ("train", "--data", text, "--max-steps", 2, *TINY)
    assert charlstm_command(*command, "--val-fraction", 0, "--out", run).returncode == 0
    done = charlstm_command("train", "--resume", run, "--max-steps", 4, "--early-stopping", 1)
    assert_fails(done, 2, "go by the validation loss")
    own = tmp_path / "own"
    assert charlstm_command(*command, "--val-data", text.name, "--out", own, cwd=text.parent).returncode == 0
    options = ("--max-steps", 4, "--val-data", text.name)
    done = charlstm_command("train", "--resume", own, *options, cwd=text.parent)
    assert done.returncode == 0, done.stderr


def test_fine_tuning_takes_the_runs_sizes_only(tmp_path: Path, small_run: charlstm.Run, text: Path) -> None:
    command = (
        "train",
        "--data",
        text,
        "--init-from",
        small_run.directory,
        "--max-steps",
        2,
        "--extend-vocab",
    )
    done = charlstm_command(*command, "--hidden-size", 256, "--out", tmp_path / "a")
    assert_fails(done, 2, "hidden_size is 24", "cannot be 256")
    file = toml(tmp_path / "c.toml", "[model]\nnum_layers = 3\n")
    assert_fails(charlstm_command(*command, "--config", file), 2, "num_layers is 2", "cannot be 3")
    done = charlstm_command(*command, "--hidden-size", 24, "--out", tmp_path / "b")
    assert done.returncode == 0, done.stderr
    started = json.loads((tmp_path / "b" / "env.json").read_text())
    assert started["init_from"] == str(small_run.directory.resolve())
    done = charlstm_command(*command[:-1], "--tokenizer", "characters", "--vocab-size", 300)
    assert_fails(done, 2, "vocab_size")
    no_text = ("train", "--init-from", small_run.directory, "--batch-size", 4)
    assert_fails(charlstm_command(*no_text), 2, "--init-from goes with --data")


def test_the_command_is_recorded(tmp_path: Path, text: Path, small_run: charlstm.Run) -> None:
    run = tmp_path / "a run"
    command = ["train", "--data", str(text), "--out", str(run), "--max-steps", "2", *TINY]
    assert charlstm_command(*command).returncode == 0
    assert charlstm_command("train", "--resume", run, "--max-steps", 3, cwd=tmp_path).returncode == 0
    started = json.loads((run / "env.json").read_text())
    assert started["command"] == f"charlstm train --data {text} --out '{run}' --max-steps 2 {' '.join(TINY)}"
    assert started["resumed"] == [{"step": 2, "command": f"charlstm train --resume '{run}' --max-steps 3"}]
    for name in ("README.md", "report.html"):
        shown = (run / name).read_text()
        assert "--max-steps 2" in shown
        assert "--max-steps 3" in shown
    assert json.loads((small_run.directory / "env.json").read_text())["command"] is None
    assert "a call from Python" in (small_run.directory / "README.md").read_text()


def test_what_a_run_cannot_be_repeated_by_is_not_told(
    tmp_path: Path, text: Path, small_run: charlstm.Run
) -> None:
    """From another run's weights config.toml alone would start with random ones."""
    repeats = f"charlstm train --config {small_run.directory / 'config.toml'}"
    assert repeats in (small_run.directory / "README.md").read_text()
    options = ("--max-steps", 2, "--extend-vocab", "--out", tmp_path / "run")
    done = charlstm_command("train", "--data", text, "--init-from", small_run.directory, *options)
    assert done.returncode == 0, done.stderr
    for name in ("README.md", "report.html"):
        shown = (tmp_path / "run" / name).read_text()
        assert "charlstm train --resume" in shown
        assert "charlstm train --config" not in shown


def test_a_corpus_is_recorded_with_its_own_tokenizer(tmp_path: Path, small_config: Config) -> None:
    corpus = charlstm.Corpus.from_text(
        "one two three\n" * 200, tokenizer=charlstm.WordTokenizer(["<unk>", "<eos>", "one", "two", "three"])
    )
    config = replace(small_config, training=TrainingConfig(max_steps=2))
    run = charlstm.train(corpus, config, out=tmp_path / "run", backend="numpy", quiet=True)
    assert run.config.data.tokenizer == "words"


def test_training_follows_the_finder_in_the_same_directory(tmp_path: Path, text: Path) -> None:
    out = tmp_path / "run"
    find = ("train", "--data", text, *TINY, "--find-lr", "--out", out)
    for _ in range(2):
        done = charlstm_command(*find)
        assert done.returncode == 0, done.stderr
    assert {p.name for p in out.iterdir()} <= {"lr-finder.json", "plots"}
    train = ("train", "--data", text, *TINY, "--max-steps", 2, "--out", out)
    assert charlstm_command(*train, *done.stdout.split()).returncode == 0
    assert (out / "lr-finder.json").is_file()
    assert_fails(charlstm_command(*find), 2, "exists already")
    (tmp_path / "other" / "plots").mkdir(parents=True)
    (tmp_path / "other" / "plots" / "thesis.png").write_text("mine")
    assert_fails(charlstm_command(*train[:-1], tmp_path / "other"), 2, "exists already")
    assert_fails(charlstm_command(*find[:-2], "--dry-run"), 2, "--find-lr and --dry-run")
