"""How `charlstm serve` bears load: throughput and delays for many clients, and a soak.

python benchmarks/serve_load.py RUN                    # a run of size M; beside a naive server on PyTorch
python benchmarks/serve_load.py RUN --plot load.svg
python benchmarks/serve_load.py RUN --soak 600         # seconds of mixed load: texts, errors and memory are checked

Clients run in a process of their own, on the same machine. Each asks for one text after the other, streamed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from serve_client import Heard, ask, ask_raw

CLIENTS = (1, 16, 64, 256)
LENGTH = 200  # characters of a text
NAIVE_PORT = 18765


@contextmanager
def serving(*arguments: str) -> Iterator[tuple[int, int]]:
    """`charlstm serve`: its port and process."""
    command = [sys.executable, "-m", "charlstm", "serve", "--port", "0", *arguments]
    running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert running.stderr is not None
    try:
        found = re.search(r"http://[^ ]+:(\d+)", running.stderr.readline())
        if found is None:
            raise SystemExit(running.stderr.read())
        told: list[str] = []
        reader = threading.Thread(target=lambda: told.extend(running.stderr or ()))
        reader.start()
        yield int(found[1]), running.pid
    finally:
        running.terminate()
        running.wait()
    reader.join()
    if told:
        raise SystemExit("the server complained:\n" + "".join(told))


@contextmanager
def serving_naively() -> Iterator[int]:
    script = Path(__file__).with_name("serve_naive.py")
    running = subprocess.Popen([sys.executable, str(script), str(NAIVE_PORT)])
    try:
        asyncio.run(_until_it_answers())
        yield NAIVE_PORT
    finally:
        running.terminate()
        running.wait()


async def _until_it_answers() -> None:
    for _ in range(300):
        try:
            await ask(NAIVE_PORT, {"max_tokens": 1, "temperature": 1.0})
        except OSError:
            await asyncio.sleep(0.1)
        else:
            return
    raise SystemExit("the naive server does not start")


async def load(port: int, clients: int, seconds: float) -> list[Heard]:
    """What so many clients hear within so many seconds."""
    end = time.perf_counter() + seconds
    heard: list[Heard] = []

    async def client(number: int) -> None:
        seed = number
        while time.perf_counter() < end:
            asked = {"max_tokens": LENGTH, "temperature": 0.8, "seed": seed, "stream": True}
            one = await ask(port, asked)
            if one.status != 200:
                raise RuntimeError(f"status {one.status}: {one.text}")
            heard.append(one)
            seed += clients

    await asyncio.gather(*map(client, range(clients)))
    return heard


def figures(heard: list[Heard], seconds: float) -> dict[str, float]:
    """Characters a second while all clients were at it, and delays in milliseconds."""
    started = min(moment for one in heard for moment, _ in one.characters)
    counted = sum(n for one in heard for moment, n in one.characters if moment <= started + seconds)
    firsts = [1000 * one.first for one in heard]
    pieces = [1000 * gap for one in heard for gap in one.gaps]
    # those of a piece come at once: each is given its share of the time that the piece took
    sizes = [n for one in heard for _, n in one.characters[1:]]
    characters = [gap / n for gap, n in zip(pieces, sizes, strict=True) for _ in range(n)]
    told = {"characters_per_second": counted / seconds}
    for what, values in (("first", firsts), ("character", characters), ("piece", pieces)):
        told[f"{what}_median"], told[f"{what}_p99"] = _quantiles(values)
    return told


def _quantiles(values: list[float]) -> tuple[float, float]:
    ordered = sorted(values)
    return statistics.median(ordered), ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]


def measure(port: int, clients: int, seconds: float) -> dict[str, float]:
    asyncio.run(load(port, clients, min(2.0, seconds)))
    return figures(asyncio.run(load(port, clients, seconds)), seconds)


def report(run: str, seconds: float, plot: str | None, arguments: list[str]) -> None:
    """Print the table, and the ratios that count."""
    with serving(run, *arguments) as (port, _):
        rows = {clients: measure(port, clients, seconds) for clients in CLIENTS}
    with serving_naively() as port:
        naive = measure(port, 64, seconds)
    print(
        "| clients | characters/s | ms to the first, median | 99 % | ms a character, median | 99 % "
        "| ms a piece, median | 99 % |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name, row in [*rows.items(), ("64, naive", naive)]:
        print(
            f"| {name} | {row['characters_per_second']:,.0f} | {row['first_median']:.1f} | {row['first_p99']:.1f} | "
            f"{row['character_median']:.2f} | {row['character_p99']:.1f} | "
            f"{row['piece_median']:.1f} | {row['piece_p99']:.1f} |"
        )
    many = rows[64]["characters_per_second"]
    print(f"\n64 clients over one: {many / rows[1]['characters_per_second']:.2f}")
    print(f"64 clients over the naive server: {many / naive['characters_per_second']:.2f}")
    if plot is not None:
        draw(rows, naive, plot)


def draw(rows: dict[int, dict[str, float]], naive: dict[str, float], path: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    left.plot(
        list(rows), [row["characters_per_second"] for row in rows.values()], "o-", label="charlstm serve"
    )
    left.plot(
        [64], [naive["characters_per_second"]], "s", color="tab:gray", label="PyTorch, a thread a request"
    )
    left.set(title="characters a second", ylim=(0, None))
    for what, color in (("first", "tab:blue"), ("piece", "tab:orange"), ("character", "tab:green")):
        name = {"first": "to the first character", "piece": "between pieces", "character": "a character"}[
            what
        ]
        right.plot(
            list(rows), [row[f"{what}_median"] for row in rows.values()], "o-", color=color, label=name
        )
        right.plot(list(rows), [row[f"{what}_p99"] for row in rows.values()], "o:", color=color)
    right.set(title="milliseconds: median, and 99 % (dotted)", yscale="log")
    for axis in (left, right):
        axis.set(xscale="log", xlabel="clients")
        axis.set_xticks(list(rows), [str(clients) for clients in rows])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
        axis.legend(frameon=False, fontsize=8)
    figure.savefig(path)


# ---- the soak -----------------------------------------------------------------------------------

MALFORMED = [
    b"{",
    b"[1]",
    b'{"prompt": 1}',
    b'{"temperature": -1}',
    b'{"prompt": "\\ud800"}',
    b'{"n": 1000}',
    b"\xff",
]


def expected(run: str) -> list[tuple[dict[str, Any], str]]:
    """Requests, each with the text that its seed gives."""
    import charlstm

    loaded, made = charlstm.load(run), []
    options: list[dict[str, Any]] = [
        {}, {"top_k": 5}, {"min_p": 0.05, "temperature": 1.2}, {"repetition_penalty": 1.2}, {"regex": "[a-z ]+[.]"},
        {"stop": "\n"},
    ]  # fmt: skip
    for k in range(60):
        prompt, length, option = ("", "A", "The ")[k % 3], 10 + 13 * k, options[k % len(options)]
        own = {**option, "stop": (option["stop"],)} if "stop" in option else option
        text = loaded.complete([prompt], length=length, seed=k, **{"temperature": 0.8, **own})[0].text
        asked = {"prompt": prompt, "max_tokens": length, "seed": k, "temperature": 0.8, **option}
        made.append((asked, text))
    return made


async def soak(
    port: int, process: int, seconds: float, texts: list[tuple[dict[str, Any], str]]
) -> Counter[str]:
    """Mixed load; what happened. Raises AssertionError where something happened that was not asked for."""
    end, counts, random_ = time.perf_counter() + seconds, Counter[str](), random.Random(0)
    sizes: list[float] = []

    async def client() -> None:
        while time.perf_counter() < end:
            kind = random_.choices(
                ("text", "streamed", "leaves", "malformed", "oversize", "long prompt"), (40, 40, 8, 8, 2, 2)
            )[0]
            asked, text = random_.choice(texts)
            if kind in ("text", "streamed"):
                heard = await ask(port, {**asked, "stream": kind == "streamed"})
                assert (heard.status, heard.text) in ((200, text), (429, heard.text)), heard
            elif kind == "leaves":
                heard = await ask(
                    port, {"max_tokens": 4000, "stream": True}, leave_after=random_.randrange(1, 9)
                )
                assert heard.status in (200, 429), heard
            elif kind == "malformed":
                heard = await ask_raw(port, random_.choice(MALFORMED))
                assert heard.status == 400, heard
            elif kind == "oversize":
                heard = await ask_raw(port, b" " * 1_000_000)
                assert heard.status == 413, heard
            else:
                heard = await ask(port, {"prompt": "a" * 16000, "max_tokens": 5})
                assert heard.status in (200, 429), heard
            counts[f"{kind}: {heard.status}"] += 1

    async def weigh() -> None:
        while time.perf_counter() < end:
            status = Path(f"/proc/{process}/status").read_text()
            found = re.search(r"VmRSS:\s+(\d+)", status)
            assert found is not None
            sizes.append(int(found[1]) / 1024)
            await asyncio.sleep(seconds / 20)

    await asyncio.gather(weigh(), *(client() for _ in range(80)))
    print("resident memory, MB:", " ".join(f"{size:.0f}" for size in sizes))
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run")
    parser.add_argument("--seconds", type=float, default=10, help="of each measurement")
    parser.add_argument("--plot", help="file to draw to")
    parser.add_argument("--soak", type=float, help="seconds of mixed load, in place of measurements")
    options, further = parser.parse_known_args()
    if options.soak is None:
        report(options.run, options.seconds, options.plot, further)
        return
    texts = expected(options.run)
    with serving(options.run, *further) as (port, process):
        counts = asyncio.run(soak(port, process, options.soak, texts))
    print(json.dumps(dict(sorted(counts.items())), indent=1))


if __name__ == "__main__":
    main()
