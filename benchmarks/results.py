"""Turn pytest-benchmark's JSON into the tables of RESULTS.md and README.md.

pytest benchmarks/ --benchmark-only -k ratio --benchmark-json=speed.json
python benchmarks/results.py speed.json
"""

from __future__ import annotations

import json
import re
import sys

WORK = {
    "train_step": "training step, tokens/s",
    "forward": "forward, tokens/s",
    "generate": "generation, one stream, characters/s",
}


def main(path: str) -> None:
    with open(path, encoding="utf-8") as file:
        rows = json.load(file)["benchmarks"]
    print("| work | shape | charlstm | peer | ratio |\n|---|---|---:|---:|---:|")
    for row in rows:
        found = re.fullmatch(r"test_(\w+)_ratio\[(\w)-(\w+)-(\w+)\]", row["name"])
        if found:
            work, shape, ours, peer = found.groups()
            info = row["extra_info"]
            speeds = (info[f"{side}_tokens_per_second"] for side in (ours, peer))
            own, other = (f"{speed:,}" for speed in speeds)
            print(f"| {WORK[work]} | {shape} | {own} | {peer} {other} | {info['ratio']:.2f} |")


main(sys.argv[1])
