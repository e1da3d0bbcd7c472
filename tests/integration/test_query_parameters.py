"""Query parameters of the API that are invalid, misspelt, repeated, or not those of the route are refused."""

import pytest
from error_responses import error_message
from starlette.testclient import TestClient


@pytest.mark.parametrize(
    "wrong",
    [
        "limit=0",
        "limit=1001",
        "min_score=2",
        "min_score=nan",
        "since=yesterday",
        "since=20261121",
        "until=2026",
        "before=x",
        "after=-1",
        f"after={2**63 - 1}",
        "after=1&before=9",
        *(f"{name}={'x' * 256}" for name in ("name", "result", "label", "model")),
    ],
    ids=lambda wrong: wrong[:20],
)
def test_invalid_arguments_are_named(client: TestClient, wrong: str) -> None:
    assert error_message(client.get(f"/predictions?{wrong}"), 422, "bad_arguments").startswith(wrong.partition("=")[0])


@pytest.mark.parametrize("path", ["/predictions", "/predictions.csv", "/predictions.fits"])
def test_a_misspelt_filter_is_refused(client: TestClient, path: str) -> None:
    message = error_message(client.get(path, params={"min_scor": "0.9"}), 400, "bad_request")
    assert "'min_scor'" in message
    assert "min_score" in message


@pytest.mark.parametrize(
    "path",
    [
        "/predictions?tag=tail&tag=ring",
        "/predictions.csv?tag=tail&tag=ring",
        "/predictions/1/similar?limi=50",
        "/review/next?unkown=true",
        "/review/next?like=ring&like=merger",
    ],
)
def test_a_repeated_parameter_or_one_that_is_not_taken_is_refused(client: TestClient, path: str) -> None:
    error_message(client.get(path), 400, "bad_request")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/labels.csv?label=ring"),
        ("POST", "/predictions/1/label?who=ada"),
        ("POST", "/predictions/1/tag?who=ada"),
        ("POST", "/predictions/1/untag?who=ada"),
        ("POST", "/models/resnet50_model/rollback?version=0123456789ab"),
    ],
)
def test_what_belongs_into_the_body_is_refused_in_the_query(client: TestClient, method: str, path: str) -> None:
    body = {} if "rollback" in path else {"label": "ring"} if "label?" in path else {"tag": "ring"}
    answer = client.request(method, path, json=None if method == "GET" else body)
    assert error_message(answer, 400, "bad_request").endswith(" is taken here")
