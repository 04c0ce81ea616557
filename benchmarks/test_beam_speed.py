"""What beam search costs beside plain sampling of one text.

pytest benchmarks/test_beam_speed.py --benchmark-only
"""

from __future__ import annotations

from typing import Any

import pytest
from measuring import pair
from workloads import GENERATED, SHAPES, TOKENIZER, charlstm_generate, charlstm_model

from charlstm.backends import unavailable
from charlstm.generation.beam import beam_search


@pytest.mark.parametrize("options", ["plain", "stop"])
@pytest.mark.parametrize("beams", [4, 16])
@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_beams(benchmark: Any, backend: str, beams: int, options: str) -> None:
    """Speed of one text from a search at M over that of one that is drawn. (The model is untrained: its posterior is
    flat, and the beams part often.)"""
    if unavailable(backend):
        pytest.skip(unavailable(backend) or "")
    model = charlstm_model(SHAPES["M"], backend)
    stop = ["!!!!!!!!"] if options == "stop" else []

    def search() -> object:
        return beam_search(
            model, TOKENIZER, "!", beams=beams, length=GENERATED, length_penalty=0.6, stop=stop
        )

    own, plain, ratio = pair(benchmark, search, charlstm_generate(SHAPES["M"], backend))
    benchmark.extra_info["ratio"] = round(ratio, 3)
    benchmark.extra_info["characters_per_second"] = round(GENERATED / own)
    benchmark.extra_info["tokens_tried_per_second"] = round(beams * GENERATED / own)
    benchmark.extra_info["plain_characters_per_second"] = round(GENERATED / plain)
