"""Whatever fits the API's description, or does not: no answer is a server's error."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
from serving import serving

import charlstm
from charlstm.serve import ServeConfig

schemathesis = pytest.importorskip("schemathesis")


@pytest.fixture(scope="module")
def address(small_run: charlstm.Run) -> Iterator[str]:
    config = ServeConfig(slots=8, max_prompt=500, max_length=50, max_texts=4, on_unknown="replace")
    with serving({"small": small_run}, config) as address:
        yield address


@pytest.mark.filterwarnings("default")  # the library's own
def test_no_request_is_a_servers_error(address: str) -> None:
    from hypothesis import HealthCheck, given, settings
    from schemathesis.checks import not_a_server_error

    schema = schemathesis.openapi.from_url(f"{address}/openapi.json")
    operations = [result.ok() for result in schema.get_all_operations()]
    assert {operation.path for operation in operations} >= {
        "/v1/completions",
        "/v1/models/{model}",
        "/metrics",
    }
    statuses: Counter[int] = Counter()
    for operation in operations:

        @given(case=operation.as_strategy() | operation.as_strategy(schemathesis.GenerationMode.NEGATIVE))
        @settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
        def check(case: schemathesis.Case) -> None:
            statuses[case.call_and_validate(checks=[not_a_server_error]).status_code] += 1

        check()
    assert set(statuses) >= {200, 400, 404}
