"""Row I14 of the fault matrix: requests made from the server's own schema (schemathesis), and no 5xx."""

from __future__ import annotations

import collections

import schemathesis
from hypothesis import HealthCheck, given, seed, settings, strategies
from schemathesis import Case
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, status_code_conformance

from tests.support.models import make_trivial

PROMISES = [not_a_server_error, content_type_conformance, status_code_conformance]


def test_i14_requests_made_from_the_schema_are_answered_as_it_says(serve, tmp_path):
    server = serve(make_trivial(tmp_path / "models"))
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    seen: collections.Counter[int] = collections.Counter()
    operations = [found.ok() for found in schema.get_all_operations()]
    assert {operation.path for operation in operations} >= {"/predict", "/models/{model}/predict", "/metrics"}
    for operation in operations:
        fuzz(operation.as_strategy(), seen)
    assert seen[200] > 20  # not all was refused
    assert seen[422] > 10
    print(f"{len(operations)} operations, {seen.total()} requests: {dict(sorted(seen.items()))}")


def fuzz(strategy, seen) -> None:
    # How many there are of each kind goes by the constants in what is imported: of 50, ten once got 422, else twenty.
    @seed(1)
    @settings(max_examples=100, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(case=strategy, is_there=strategies.booleans())
    def ask(case: Case, is_there: bool) -> None:
        if is_there and "model" in (case.path_parameters or {}):
            case.path_parameters["model"] = "trivial"
        response = case.call(timeout=30)
        seen[response.status_code] += 1
        hurried = "X-Timeout-Ms" in (case.headers or {})
        if not (hurried and response.status_code in (503, 504)):  # a deadline may be a millisecond
            case.validate_response(response, checks=PROMISES)

    ask()
