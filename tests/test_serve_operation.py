"""The server under load, watched, attacked and stopped."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from conftest import assert_fails, charlstm_command
from serving import LIMITS, completed, figure, refused, serving, streamed, until

import charlstm
from charlstm.errors import UsageError
from charlstm.serve import ServeConfig


@pytest.fixture(scope="module")
def address(small_run: charlstm.Run) -> Iterator[str]:
    with serving({"small": small_run}, LIMITS) as address:
        yield address


@pytest.fixture(scope="module")
def http(address: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=address, timeout=20) as client:
        yield client


# ---- many at once -------------------------------------------------------------------------------


def posted(address: str, **asked: object) -> socket.socket:
    """A request whose answer nobody reads."""
    connection = socket.create_connection((urlsplit(address).hostname, urlsplit(address).port), 20)
    body = json.dumps(asked).encode()
    connection.sendall(
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    )
    return connection


def test_a_full_queue_and_clients_that_leave(http: httpx.Client, address: str) -> None:
    """Those who leave make room at once, whether their texts are streamed or not."""
    with posted(address, max_tokens=100_000, n=5, stream=True) as streaming:
        assert b" 200 " in streaming.recv(100)
        with posted(address, max_tokens=100_000, n=5):
            until(lambda: figure(http, 'charlstm_waiting_texts{model="small"}') == 6)
            busy = http.post("/v1/completions", json={"max_tokens": 1})
            refused(busy, 429, "too many")
            assert int(busy.headers["retry-after"]) >= 1
        until(lambda: figure(http, 'charlstm_waiting_texts{model="small"}') == 1)
    until(lambda: figure(http, 'charlstm_active_texts{model="small"}') == 0)
    assert completed(http, max_tokens=1)["choices"][0]["text"]


def test_a_slow_reader_holds_nobody_up(http: httpx.Client, address: str) -> None:
    with posted(address, max_tokens=30_000, stream=True, logprobs=5):
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
    config = ServeConfig(slots=1, deadline="0.6", max_length=10**6)
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


# ---- operation and protection -------------------------------------------------------------------


def test_health_and_metrics(http: httpx.Client) -> None:
    assert http.get("/health").json() == {"status": "ok"}
    assert http.get("/ready").json() == {"status": "ready", "models": {"small": True}}
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


def named(address: str, host: str) -> httpx.Response:
    return httpx.post(
        f"{address}/v1/completions", json={"max_tokens": 1}, headers={"Host": host.encode()}, timeout=20
    )


def test_names_that_are_not_the_servers(http: httpx.Client, address: str, small_run: charlstm.Run) -> None:
    """A page whose own name leads to this machine (DNS rebinding) is of the same origin to the browser."""
    own = ["localhost", "LOCALHOST:80", "127.0.0.1", "127.8.9.10:8000", "[::1]", "[::1]:8000"]
    foreign = ["é", "evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example",
               "evil.example#localhost", "10.0.0.1", "[::2]:80", "localhost:80:80", "x@localhost", ""]  # fmt: skip
    before = figure(http, 'charlstm_tokens_total{model="small"}')
    for host in foreign:
        refused(named(address, host), 403, "--allowed-host")
        assert httpx.get(f"{address}/", headers={"Host": host.encode()}).status_code == 403
    rebound = {"Host": "evil.example:1", "Origin": "http://evil.example:1"}
    assert http.post("/v1/completions", json={}, headers=rebound).status_code == 403
    assert figure(http, 'charlstm_tokens_total{model="small"}') == before
    assert all(named(address, host).status_code == 200 for host in own)
    config = ServeConfig(allowed_host=("Text.example.org", "[2001:db8::1]"))
    with serving({"small": small_run}, config) as other:
        for host in ("text.example.org", "TEXT.example.org:8443", "[2001:db8::1]:80", "localhost"):
            assert named(other, host).status_code == 200
        refused(named(other, "example.org"), 403)


@pytest.mark.parametrize(
    ("options", "checks"),
    [
        ({}, True),
        ({"host": "localhost"}, True),
        ({"host": "::1"}, True),
        ({"api_key": "key"}, False),
        ({"host": "0.0.0.0"}, False),
        ({"host": "0.0.0.0", "allowed_host": ("example.org",)}, True),
    ],
)
def test_where_names_are_checked(options: dict[str, Any], checks: bool) -> None:
    assert ServeConfig(**options).checks_host is checks


@pytest.mark.parametrize("name", ["https://example.org", "example.org:80", "example.org/x", "", "*", "::1"])
def test_names_that_cannot_be(name: str) -> None:
    with pytest.raises(UsageError, match="allowed_host"):
        ServeConfig(allowed_host=(name,))


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
    (small,) = http.get("/page/models").json()["models"]
    assert (small["id"], small["parameters"], small["vocab_size"]) == (
        "small", small_run.model.num_parameters, len(small_run.tokenizer),
    )  # fmt: skip
    losses = [line["val_loss"] for line in small_run.metrics if "val_loss" in line]
    assert small["losses"]["best_val"] == min(losses)
    assert [loss for _, loss in small["curves"]["val_loss"]] == losses
    assert small["trained_on"]["name"].startswith("coffee")


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
