"""The server's API: OpenAI's format, limits, and whatever clients send."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import openai
import pytest
from serving import LIMITS, completed, refused, serving, streamed

import charlstm
from charlstm.serve.protocol import Completion


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


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"prompt": "Thé"}, "prompt"),
        ({"prompt": "a" * 301}, "prompt"),
        ({"max_tokens": 100_001}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"n": 9}, "n"),
        ({"temperature": [1]}, "temperature"),
        ({"temperature": "warm"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"min_p": 2}, "min_p"),
        ({"typical": 0}, "typical"),
        ({"stop": ["a", ""]}, "stop"),
        ({"logit_bias": {"999999": 1}}, "logit_bias"),
        ({"regex": "["}, "regex"),
        ({"regex": "é"}, "regex"),
        ({"regex": "a{99}", "max_tokens": 5}, "regex"),
        ({"messages": []}, "messages"),
        ([], None),
    ],
)
def test_errors_name_their_field(http: httpx.Client, asked: object, field: str | None) -> None:
    assert http.post("/v1/completions", json=asked).json()["error"]["param"] == field


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
                b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                + header + b"\r\n\r\n" + b" " * 40_000
            )  # fmt: skip
            assert b" 413 " in connection.recv(100)


def test_bodies_that_do_not_come(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("charlstm.serve.guards.BODY_SECONDS", 0.05)
    with socket.create_connection((urlsplit(address).hostname, urlsplit(address).port), 10) as connection:
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{")
        assert b" 408 " in connection.recv(100)


def test_other_routes_and_methods(http: httpx.Client) -> None:
    refused(http.get("/v1/models/nothing"), 404, "nothing")
    refused(http.get("/nothing"), 404, "/docs")
    answer = http.post("/v1/chat/completions", json={})
    refused(answer, 404, "/v1/chat/completions")
    assert answer.json()["error"]["code"] == "not_found"
    body = b'{"prompt": "A", "max_tokens": 3}'
    refused(http.post("/v1/completions", content=body), 400, "Content-Type: application/json")
    refused(http.get("/v1/completions"), 405)
    refused(http.post("/v1/completions", content="prompt=a"), 400)
    for path in ("/static/../app.py", "/static/%2e%2e/app.py", "/static/nothing.js"):
        assert http.get(path).status_code == 404
