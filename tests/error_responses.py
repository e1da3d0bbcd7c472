"""What every error response of the HTTP API is checked for."""

import re
from typing import Any

SECRET_PATHS = re.compile(r"/tmp|/home|/root|\.s\.PGSQL|postgres://|host=")


def error_message(response: Any, status: int, code: str) -> str:
    """The message of an error response."""
    assert response.status_code == status, response.text
    assert response.json().keys() == {"error"}
    assert response.json()["error"].keys() == {"code", "message"}
    assert response.json()["error"]["code"] == code
    message: str = response.json()["error"]["message"]
    assert message
    assert "\n" not in message
    assert not SECRET_PATHS.search(message)
    return message
