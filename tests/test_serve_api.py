"""The server's API: OpenAI's format, limits, and whatever clients send."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import openai
import pytest
from conftest import assert_fails, charlstm_command
from serving import serving

import charlstm
from charlstm.serve import ServeConfig
from charlstm.serve.protocol import Completion, Error

LIMITS = ServeConfig(slots=4, queue=6, max_prompt=300, max_length=100_000, max_texts=8, max_body=20_000)


@pytest.fixture(scope="module")
def bytes_run(tmp_path_factory: pytest.TempPathFactory) -> charlstm.Run:
    """A model of bytes, which draws parts of characters."""
    folder = tmp_path_factory.mktemp("bytes")
    (folder / "text.txt").write_text("é😀ü" * 600, encoding="utf-8")
    config = charlstm.Config(
        charlstm.ModelConfig(hidden_size=8, num_layers=1),
        charlstm.DataConfig(tokenizer="bytes", batch_size=4, seq_len=16),
        charlstm.TrainingConfig(max_steps=3),
    )
    return charlstm.train(folder / "text.txt", config, out=folder / "run", backend="numpy", quiet=True)


@pytest.fixture(scope="module")
def address(small_run: charlstm.Run, bytes_run: charlstm.Run) -> Iterator[str]:
    with serving({"small": small_run, "bytes": bytes_run}, LIMITS) as address:
        yield address


@pytest.fixture(scope="module")
def http(address: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=address, timeout=20) as client:
        yield client


@pytest.fixture(scope="module")
def client(address: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=20) as client:
        yield client


def completed(http: httpx.Client, **asked: Any) -> dict[str, Any]:
    answer = http.post("/v1/completions", json=asked)
    assert answer.status_code == 200, answer.text
    Completion.model_validate_json(answer.content)
    told: dict[str, Any] = answer.json()
    return told


def refused(answer: httpx.Response, status: int, *parts: str) -> None:
    assert answer.status_code == status, answer.text
    message = Error.model_validate_json(answer.content).error.message
    for part in parts:
        assert part in message


def streamed(http: httpx.Client, **asked: Any) -> list[dict[str, Any]]:
    """The events of a streamed answer."""
    with http.stream("POST", "/v1/completions", json={**asked, "stream": True}) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        *events, last, nothing = answer.read().decode().split("\n\n")
    assert (last, nothing) == ("data: [DONE]", "")
    return [json.loads(event.removeprefix("data: ")) for event in events]


# ---- OpenAI's client ----------------------------------------------------------------------------


def test_the_openai_client(client: openai.OpenAI, small_run: charlstm.Run) -> None:
    assert [model.id for model in client.models.list()] == ["small", "bytes"]
    assert client.models.retrieve("small").owned_by == "charlstm"
    asked: dict[str, Any] = {
        "model": "small",
        "prompt": "The ",
        "max_tokens": 50,
        "seed": 3,
        "temperature": 0.8,
    }
    expected = small_run.generate("The ", length=50, seed=3)[4:]
    whole = client.completions.create(**asked)
    assert (whole.choices[0].text, whole.choices[0].finish_reason) == (expected, "length")
    assert whole.usage is not None
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens, whole.usage.total_tokens) == (4, 50, 54)
    pieces = list(client.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert "".join(piece.choices[0].text for piece in pieces[:-1]) == expected
    longer = list(client.completions.create(**asked | {"max_tokens": 2000}, stream=True))
    assert len(longer) > 3  # however fast the model, and however slow the reader
    assert pieces[-1].choices == []
    assert pieces[-1].usage == whole.usage
    further = client.completions.create(**asked, extra_body={"min_p": 0.2, "regex": "[a-z ]+"})
    assert re.fullmatch("[a-z ]+", further.choices[0].text)
    for wrong, kind in [
        ({"model": "nothing"}, openai.NotFoundError),
        ({"temperature": -1}, openai.BadRequestError),
        ({"extra_body": {"temprature": 1}}, openai.BadRequestError),
    ]:
        with pytest.raises(kind):
            client.completions.create(**{**asked, **wrong})


def test_what_is_asked_for_in_openais_words(http: httpx.Client, small_run: charlstm.Run) -> None:
    def text(prompt: str, seed: int, **options: Any) -> str:
        return small_run.generate(prompt, seed=seed, **{"length": 16, "temperature": 1.0, **options})[
            len(prompt) :
        ]

    told = completed(http, prompt=["The ", "A"], n=2, seed=5)
    assert [(c["index"], c["text"], c["seed"]) for c in told["choices"]] == [
        (k, text(prompt, 5 + k), 5 + k) for k, prompt in enumerate(["The ", "The ", "A", "A"])
    ]
    assert told["usage"]["prompt_tokens"] == 5
    assert completed(http, prompt="The ", seed=1, echo=True)["choices"][0]["text"] == "The " + text("The ", 1)
    whole = text("", 2, length=80)
    for stop in (whole[20:23], [whole[20:23], "\n\n\n"]):
        choice = completed(http, seed=2, max_tokens=80, stop=stop)["choices"][0]
        assert (choice["text"], choice["finish_reason"]) == (whole[: whole.find(whole[20:23])], "stop")
    e = str(small_run.tokenizer.encode("e")[0])
    without = completed(http, seed=2, max_tokens=80, logit_bias={e: -100})["choices"][0]["text"]
    assert "e" in whole
    assert "e" not in without
    choice = completed(http, max_tokens=40)["choices"][0]
    assert choice["text"] == text("", choice["seed"], length=40)
    nothing = completed(http, prompt="The ", max_tokens=0)["choices"][0]
    assert (nothing["text"], nothing["finish_reason"]) == ("", "length")
    defaults = completed(
        http, prompt="The ", seed=1, max_tokens=None, temperature=None, top_p=None, n=None, stop=None, logprobs=None,
        echo=None, stream=None, logit_bias=None, best_of=1, presence_penalty=0.0, frequency_penalty=0,
        suffix=None, user="x",
    )  # fmt: skip
    assert defaults["choices"][0]["text"] == text("The ", 1)


@pytest.mark.parametrize("options", [{}, {"stop": ["th", "zzz"]}, {"echo": True}])
def test_logprobs(http: httpx.Client, small_run: charlstm.Run, options: dict[str, Any]) -> None:
    asked = {"prompt": "The ", "max_tokens": 60, "seed": 4, "logprobs": 3, "temperature": 0.8, **options}
    choice = completed(http, **asked)["choices"][0]
    told, text = choice["logprobs"], choice["text"]
    start = 4 if "echo" in options else 0  # characters of the prompt
    own = small_run.complete(["The "], length=60, seed=4, alternatives=3)[0].tokens[: len(text) - start]
    assert "".join(told["tokens"]) == text
    assert told["text_offset"] == list(range(len(text)))
    assert told["token_ids"][start:] == [token.id for token in own]
    assert told["token_logprobs"][start:] == pytest.approx([token.log_probability for token in own])
    for best, token in zip(told["top_logprobs"][start:], own, strict=True):
        assert best == pytest.approx({small_run.tokenizer.decode([k]): v for k, v in token.alternatives})
    if start:
        assert told["token_logprobs"][0] is told["top_logprobs"][0] is None
    events = [event["choices"][0] for event in streamed(http, **asked)]
    assert "".join(event["text"] for event in events) == text
    for key, values in told.items():
        assert [value for event in events for value in event["logprobs"][key]] == values


def test_scoring_a_text(http: httpx.Client, small_run: charlstm.Run) -> None:
    """As evaluation harnesses do: echo, with nothing to generate."""
    text = "The coffee is hot."
    choice = completed(http, prompt=text, max_tokens=0, echo=True, logprobs=0)["choices"][0]
    ids = small_run.tokenizer.encode(text)
    posterior, _ = small_run.model.posterior(ids[:-1, np.newaxis])
    values = np.log(posterior[np.arange(len(text) - 1), 0, ids[1:]])
    assert choice["text"] == text
    assert choice["logprobs"]["token_logprobs"] == pytest.approx([None, *values])


def test_parts_of_characters(http: httpx.Client) -> None:
    asked = {"model": "bytes", "prompt": "é", "max_tokens": 40, "seed": 0, "logprobs": 5, "echo": True}
    choice = completed(http, **asked)["choices"][0]
    assert choice["logprobs"]["tokens"][:2] == ["bytes:\\xc3", "é"]
    assert any(
        name.startswith("bytes:\\x") for best in choice["logprobs"]["top_logprobs"][1:] for name in best
    )
    events = streamed(http, **asked)
    assert "".join(event["choices"][0]["text"] for event in events) == choice["text"]


# ---- what is refused, and what is not -----------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "parts"),
    [
        ({"prompt": "Thé"}, ["'é'", "(on_unknown skip"]),
        ({"prompt": 5}, ["prompt"]),
        ({"prompt": []}, ["prompt"]),
        ({"prompt": ["a"] * 9}, ["9 texts", "at most 8"]),
        ({"n": 9}, ["at most 8"]),
        ({"n": 0}, ["n: "]),
        ({"max_tokens": 100_001}, ["at most 100000"]),
        ({"max_tokens": -1}, ["max_tokens"]),
        ({"prompt": "a" * 301}, ["301 tokens", "at most 300"]),
        ({"prompt": "a" * 5000}, ["at most 300"]),
        ({"temperature": -0.5}, ["temperature"]),
        ({"temperature": "warm"}, ["temperature"]),
        ({"temperature": "1," * 200 + "1"}, ["temperature"]),
        ({"top_p": 0}, ["top_p"]),
        ({"seed": -1}, ["seed"]),
        ({"stop": ""}, ["stop"]),
        ({"stop": ["a"] * 17}, ["stop"]),
        ({"logprobs": 21}, ["logprobs"]),
        ({"logit_bias": {"e": 1}}, ["logit_bias"]),
        ({"logit_bias": {"999999": 1}}, ["no token 999999"]),
        ({"regex": "(?=a)b"}, ["lookahead"]),
        ({"regex": "é"}, ["'é'"]),
        ({"best_of": 3}, ["best_of"]),
        ({"presence_penalty": 1}, ["presence_penalty"]),
        ({"messages": []}, ["messages"]),
        ({"on_unknown": "panic"}, ["on_unknown"]),
    ],
)
def test_what_cannot_be_is_refused(http: httpx.Client, asked: dict[str, Any], parts: list[str]) -> None:
    refused(http.post("/v1/completions", json=asked), 400, *parts)
    refused(http.post("/v1/completions", json={**asked, "stream": True}), 400, *parts)


HELL = [
    b'{"prompt": "\\ud800"}', b'{"prompt": ["\\udfff\\udc80"], "on_unknown": "replace"}', b'{"stop": "\\ud800"}',
    b'{"prompt": "\\u0000\\u0001\\u001b[31m\\u007f"}', "{\"prompt\": \"\u202eabc\u2066\u0627\u0644\"}".encode(),
    "{\"prompt\": \"😀👩‍👩‍👧\"}".encode(), b'{"prompt": "<script>alert(1)</script>"}', b'{"\\ud800": 1}',
    b'{"model": "\\ud800"}', b'{"prompt": "\xff\xfe"}', b'{"temperature": NaN}', b'{"temperature": 1e999}',
    b'{"temperature": -Infinity}', b'{"seed": ' + b"9" * 5000 + b"}", b'{"max_tokens": 1e400}', b"[" * 9000,
    b'{"logit_bias": {"0": NaN}}', b'{"logit_bias": {"0": 1e999}}', b"", b"null", b"[]", b'"', b"{", b"\x00",
    b'{"regex": "(((((((((a*)*)*)*)*)*)*)*)*"}', b'{"regex": "["}', b'{"regex": "[\\ud800]"}',
    b'{"repetition_window": 1e9}',
    b'{"top_k": 99999999999999999999}', b'{"no_repeat_ngram": 99999999999999999999}', b'{"model": 1, "model": 2}',
]  # fmt: skip


@pytest.mark.parametrize("body", HELL, ids=range(len(HELL)))
@pytest.mark.parametrize("model", ["small", "bytes"])
def test_prompts_from_hell(http: httpx.Client, body: bytes, model: str) -> None:
    if body.startswith(b"{") and b'"model"' not in body and b"}" in body:
        separator = b", " if b":" in body else b""
        body = b'{"model": "%b"%b%b' % (model.encode(), separator, body[1:])
    answer = http.post("/v1/completions", content=body, headers={"content-type": "application/json"})
    if answer.status_code == 200:
        Completion.model_validate_json(answer.content)
    else:
        refused(answer, 400 if answer.status_code != 404 else 404)


def test_what_a_model_does_not_know_is_skipped_or_replaced(
    http: httpx.Client, small_run: charlstm.Run
) -> None:
    for policy, same in [("skip", "Th"), ("replace", "Th?")]:
        told = completed(http, prompt="Thé", seed=1, on_unknown=policy)
        assert told["choices"][0]["text"] == completed(http, prompt=same, seed=1)["choices"][0]["text"]


def test_bodies_that_are_too_large(http: httpx.Client, address: str) -> None:
    refused(http.post("/v1/completions", json={"prompt": "a" * 1_000_000}), 413, "20000 bytes")

    def chunks() -> Iterator[bytes]:
        for _ in range(300):
            yield b" " * 100

    refused(http.post("/v1/completions", content=chunks(), headers={"content-type": "application/json"}), 413)
    for header in (b"Content-Length: 99999999999999", b"Transfer-Encoding: chunked\r\n\r\nFFFFFFFF"):
        with socket.create_connection((urlsplit(address).hostname, urlsplit(address).port), 10) as connection:
            connection.sendall(
                b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                + header + b"\r\n\r\n" + b" " * 40_000
            )  # fmt: skip
            assert b" 413 " in connection.recv(100)


def test_bodies_that_do_not_come(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("charlstm.serve.guards.BODY_SECONDS", 0.05)
    with socket.create_connection((urlsplit(address).hostname, urlsplit(address).port), 10) as connection:
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")
        assert b" 408 " in connection.recv(100)


def test_other_routes_and_methods(http: httpx.Client) -> None:
    refused(http.get("/v1/models/nothing"), 404, "nothing")
    refused(http.get("/nothing"), 404)
    refused(http.get("/v1/completions"), 405)
    refused(http.post("/v1/completions", content="prompt=a"), 400)
    for path in ("/static/../app.py", "/static/%2e%2e/app.py", "/static/nothing.js"):
        assert http.get(path).status_code == 404


# ---- many at once -------------------------------------------------------------------------------


def test_a_full_queue_and_clients_that_leave(http: httpx.Client, address: str) -> None:
    """Those who leave make room at once, whether their texts are streamed or not."""
    with httpx.Client(base_url=address, timeout=1) as impatient:
        long = {"max_tokens": 100_000, "n": 5}
        with (
            impatient.stream("POST", "/v1/completions", json={**long, "stream": True}) as answer,
            ThreadPoolExecutor() as pool,
        ):
            pieces = answer.iter_bytes()
            next(pieces)
            waiting = pool.submit(
                pytest.raises, httpx.ReadTimeout, impatient.post, "/v1/completions", json=long
            )
            until(lambda: figure(http, 'charlstm_waiting_texts{model="small"}') == 6)
            busy = http.post("/v1/completions", json={"max_tokens": 1})
            refused(busy, 429, "too many")
            assert int(busy.headers["retry-after"]) >= 1
            waiting.result()
        until(lambda: figure(http, 'charlstm_active_texts{model="small"}') == 0)
    assert completed(http, max_tokens=1)["choices"][0]["text"]


def test_a_slow_reader_holds_nobody_up(http: httpx.Client, address: str) -> None:
    body = json.dumps({"max_tokens": 30_000, "stream": True, "logprobs": 5}).encode()
    with socket.create_connection((urlsplit(address).hostname, urlsplit(address).port), 20) as slow:
        slow.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        )  # and reads nothing
        for _ in range(3):
            assert completed(http, max_tokens=30)["usage"]["completion_tokens"] == 30


def test_texts_of_many_clients_are_those_of_their_seeds(http: httpx.Client, small_run: charlstm.Run) -> None:
    def ask(seed: int) -> str:
        asked = {"prompt": "The ", "max_tokens": 20 + seed, "seed": seed, "temperature": 0.8}
        if seed % 2:
            return "".join(event["choices"][0]["text"] for event in streamed(http, **asked))
        return str(completed(http, **asked)["choices"][0]["text"])

    with ThreadPoolExecutor(8) as pool:
        texts = list(pool.map(ask, range(24)))
    for seed, text in enumerate(texts):
        assert "The " + text == small_run.generate("The ", length=20 + seed, seed=seed)


def test_few_and_small_automata_are_made_at_once(http: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    completed(http, regex="[a-z]+")
    with monkeypatch.context() as patch:
        patch.setattr("charlstm.serve.protocol.MOST_CELLS", 100)
        refused(http.post("/v1/completions", json={"regex": "[a-z]{9}"}), 400, "too many states")
    monkeypatch.setattr("charlstm.serve.app.MOST_MAKING", 0)
    refused(http.post("/v1/completions", json={"regex": "[a-z]+"}), 429)
    completed(http)


def test_a_deadline(small_run: charlstm.Run) -> None:
    config = ServeConfig(slots=1, deadline="0.3", max_length=10**6)
    with serving({"small": small_run}, config) as address, httpx.Client(base_url=address, timeout=20) as http:
        choice = completed(http, max_tokens=10**6)["choices"][0]
        assert (choice["finish_reason"], choice["end"]) == ("length", "deadline")
        events = streamed(http, max_tokens=10**6)
        assert events[-1]["choices"][0]["end"] == "deadline"
    with serving({"small": small_run}, ServeConfig(deadline="0.000001")) as address:
        for stream in (False, True):  # over before it began
            answer = httpx.post(f"{address}/v1/completions", json={"stream": stream})
            refused(answer, 429)
            assert "retry-after" in answer.headers


def until(condition: Any) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def figure(http: httpx.Client, name: str) -> float:
    """One of /metrics."""
    (line,) = (line for line in http.get("/metrics").text.splitlines() if line.startswith(name + " "))
    return float(line.rpartition(" ")[2])


# ---- operation and protection -------------------------------------------------------------------


def test_health_and_metrics(http: httpx.Client) -> None:
    assert http.get("/health").json() == {"status": "ok"}
    assert http.get("/ready").json() == {"status": "ready", "models": {"small": True, "bytes": True}}
    before = figure(http, 'charlstm_tokens_total{model="small"}')
    completed(http, max_tokens=33, n=2)
    assert figure(http, 'charlstm_tokens_total{model="small"}') == before + 66
    for name in ("time_to_first_token", "time_between_tokens"):
        assert figure(http, f'charlstm_{name}_seconds_count{{model="small"}}') > 0
    http.get("/endless/path")
    assert figure(http, 'charlstm_requests_total{path="other",status="404"}') >= 1
    assert figure(http, 'charlstm_requests_total{path="/v1/completions",status="200"}') > 0


def test_a_model_that_fails(small_run: charlstm.Run) -> None:
    broken = charlstm.load(small_run.directory, "numpy")
    with serving({"small": broken}) as address, httpx.Client(base_url=address, timeout=20) as http:
        broken.model.parameters["head.bias"][...] = float("nan")
        assert http.get("/ready").status_code == 503
        refused(http.post("/v1/completions", json={}), 500, "failed")
        refused(http.post("/v1/completions", json={"stream": True}), 500, "failed")


def test_a_key(small_run: charlstm.Run) -> None:
    with (
        serving({"small": small_run}, ServeConfig(api_key="sésame")) as address,
        httpx.Client(base_url=address, timeout=20) as http,
    ):
        good = {"Authorization": "Bearer sésame".encode()}
        assert http.get("/health").status_code == 200
        for path in (
            "/",
            "/ready",
            "/metrics",
            "/docs",
            "/openapi.json",
            "/v1/models",
            "/page/models",
            "/nothing",
        ):
            answer = http.get(path)
            refused(answer, 401, "key")
            assert answer.headers["www-authenticate"].startswith("Basic")
            assert http.get(path, headers=good).status_code in (200, 404)
        refused(http.post("/v1/completions", content=b"x" * 10**6), 401)
        for wrong in ("Bearer sesame", "Bearer", "Basic ???", "sésame", "Token sésame"):
            refused(http.get("/v1/models", headers={"Authorization": wrong.encode()}), 401)
        assert http.get("/", auth=httpx.BasicAuth("anybody", "sésame")).status_code == 200
        assert http.get("/", auth=httpx.BasicAuth("sésame", "")).status_code == 401


def test_pages_of_other_origins(http: httpx.Client, address: str, small_run: charlstm.Run) -> None:
    assert http.post("/v1/completions", json={}, headers={"Origin": address}).status_code == 200
    for origin in ("https://evil.example", "null", "http://[", "é"):
        answer = http.post("/v1/completions", json={}, headers={"Origin": origin.encode()})
        refused(answer, 403, "origin")
        assert "access-control-allow-origin" not in answer.headers
    config = ServeConfig(cors_origin=("https://good.example",), api_key="key")
    with serving({"small": small_run}, config) as other, httpx.Client(base_url=other, timeout=20) as client:
        asking = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
        for origin, status in [("https://good.example", 200), ("https://evil.example", 400)]:
            assert (
                client.options("/v1/completions", headers={"Origin": origin, **asking}).status_code == status
            )
        headers = {"Origin": "https://good.example", "Authorization": "Bearer key"}
        answer = client.post("/v1/completions", json={}, headers=headers)
        assert answer.headers["access-control-allow-origin"] == "https://good.example"


def test_what_browsers_are_told(http: httpx.Client) -> None:
    page = http.get("/")
    assert page.headers["content-type"].startswith("text/html")
    for path in ("/", "/v1/models", "/nothing", "/static/app.js", "/docs"):
        headers = http.get(path).headers
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert "server" not in headers
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "unsafe" not in page.headers["content-security-policy"]
    for name in re.findall(r'(?:src|href)="(static/[^"]+)"', page.text):
        assert http.get(f"/{name}").status_code == 200
    assert not re.search(r"https?://|<style|<script>|\son\w+=|style=", page.text)


def test_descriptions(http: httpx.Client, small_run: charlstm.Run) -> None:
    schema = http.get("/openapi.json").json()
    fields = schema["components"]["schemas"]["CompletionRequest"]["properties"]
    assert all(fields[name].get("description") for name in fields)
    docs = http.get("/docs").text
    assert all(name in docs for name in ["POST /v1/completions", "max_tokens", "/openapi.json", *fields])
    assert "422" not in docs
    small, other = http.get("/page/models").json()["models"]
    assert (small["id"], small["parameters"], small["vocab_size"]) == (
        "small", small_run.model.num_parameters, len(small_run.tokenizer),
    )  # fmt: skip
    losses = [line["val_loss"] for line in small_run.metrics if "val_loss" in line]
    assert small["losses"]["best_val"] == min(losses)
    assert [loss for _, loss in small["curves"]["val_loss"]] == losses
    assert small["trained_on"]["name"].startswith("coffee")
    assert other["unit"] == "byte"


# ---- the command --------------------------------------------------------------------------------


def test_the_command_drains(small_run: charlstm.Run) -> None:
    command = [
        sys.executable, "-m", "charlstm", "serve", str(small_run.directory), "--port", "0", "--backend", "numpy",
        "--drain", "1s", "--max-length", "10000000",
    ]  # fmt: skip
    environment = {**os.environ, "CHARLSTM_API_KEY": "key"}
    running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        assert running.stderr is not None
        address = re.search(r"http://\S+", running.stderr.readline())
        assert address is not None
        headers = {"Authorization": "Bearer key"}
        with httpx.Client(base_url=address[0], timeout=20, headers=headers) as http:
            assert httpx.get(f"{address[0]}/v1/models").status_code == 401
            with http.stream("POST", "/v1/completions", json={"max_tokens": 10**7, "stream": True}) as answer:
                lines = answer.iter_lines()
                next(lines)
                running.send_signal(signal.SIGTERM)
                *_, last, _, done, _ = lines
        assert json.loads(last.removeprefix("data: "))["choices"][0]["end"] == "deadline"
        assert done == "data: [DONE]"
        assert running.wait(10) in (-signal.SIGTERM, 143)
    finally:
        running.kill()
        running.wait()
        running.stderr.close()  # type: ignore[union-attr]


def test_commands_that_cannot_be(tmp_path: Path, small_run: charlstm.Run) -> None:
    assert_fails(charlstm_command("serve"), 2, "run directory")
    assert_fails(charlstm_command("serve", tmp_path / "nothing"), 1, "no run directory")
    assert_fails(charlstm_command("serve", small_run.directory, "--deadline", "soon"), 2, "duration")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert_fails(
            charlstm_command("serve", small_run.directory, "--port", port, "--backend", "numpy"), 1, "port"
        )
