"""Every operation of the OpenAPI document, called with arguments that follow the document and arguments that do not."""

import contextlib
from collections import Counter
from typing import Any

import hypothesis
import requests
import schemathesis
from schemathesis import checks
from schemathesis.core.failures import FailureGroup
from schemathesis.core.result import Ok
from schemathesis.generation import GenerationMode
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi import checks as openapi_checks

from faults.clients import send_in_turn, small_image, upload_request
from faults.service_state import Start

CASES, FULL_CASES = 30, 1_500  # of each operation, with valid arguments, and as many with invalid ones
FEWEST = 1_000
IMAGES = 5  # so that the first ids exist
CHECKS = [
    checks.not_a_server_error,
    openapi_checks.status_code_conformance,
    openapi_checks.content_type_conformance,
    openapi_checks.response_headers_conformance,
    openapi_checks.response_schema_conformance,
]


def test_every_response_is_one_that_the_openapi_document_declares(start: Start, full: bool) -> None:
    service = start()
    send_in_turn(service.port, [upload_request(f"{n}.png", small_image(n)) for n in range(IMAGES)])
    schema = schemathesis.openapi.from_url(service.url + "/openapi.json")
    statuses, failures = Counter[int](), list[str]()

    def call(operation: APIOperation[Any, Any, Any, Any], mode: GenerationMode) -> None:
        @hypothesis.settings(
            max_examples=FULL_CASES if full else CASES,
            derandomize=True,
            deadline=None,
            database=None,
            suppress_health_check=list(hypothesis.HealthCheck),
            phases=[hypothesis.Phase.generate],
        )
        @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
        def send(case: schemathesis.Case[Any]) -> None:
            response = case.call(base_url=service.url, session=session)
            statuses[response.status_code] += 1
            case.validate_response(response, checks=CHECKS)

        try:
            with contextlib.suppress(hypothesis.errors.Unsatisfiable):  # nothing of it can be invalid
                send()
        except FailureGroup as found:
            failures.append(f"{operation.label}: {found.exceptions}")

    with requests.Session() as session:
        for result in schema.get_all_operations():
            assert isinstance(result, Ok)
            for mode in GenerationMode:
                call(result.ok(), mode)
    assert not failures, "\n".join(failures)
    assert statuses.total() >= FEWEST
    assert statuses[200] >= IMAGES  # not only refusals
