"""The OpenAPI document and its page."""

import re

from starlette.testclient import TestClient


def test_the_openapi_document_shows_examples_and_declares_its_errors(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    declared = {
        path: set(operation["responses"])
        for path, operations in document["paths"].items()
        for operation in operations.values()
    }
    assert declared["/detect"] == {"200", "400", "403", "404", "408", "409", "413", "415", "422", "503"}
    schemas = document["components"]["schemas"]
    for name in ("PredictionResponse", "PredictionsResponse", "ModelResponse", "ErrorResponse"):
        assert schemas[name]["example"]
    assert schemas["PredictionResponse"]["example"].keys() == schemas["PredictionResponse"]["properties"].keys()


def test_the_docs_page_loads_from_this_host_alone(client: TestClient) -> None:
    page = client.get("/docs").text
    assert "//" not in re.sub(r"<!--.*?-->", "", page, flags=re.DOTALL)
    urls = re.findall(r"""(?:href|src|url)[=:]\s*["'](/[^"']+)""", page)
    assert len(urls) == 4
    for path in urls:
        assert client.get(path).status_code == 200
