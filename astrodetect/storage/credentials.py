"""Credentials of S3 from the files of the AWS command line, where no environment variable has them."""

import configparser
import os
from pathlib import Path

from astrodetect.errors import StorageError

# What the client reads itself; each has precedence over the files.
ENVIRONMENT = (
    *("AWS_ACCESS_KEY_ID", "AWS_SKIP_SIGNATURE", "AWS_WEB_IDENTITY_TOKEN_FILE"),
    *("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI"),
)
KEYS = {
    "aws_access_key_id": "access_key_id",
    "aws_secret_access_key": "secret_access_key",
    "aws_session_token": "session_token",
}
PLACE = {
    "region": ("region", ("AWS_REGION", "AWS_DEFAULT_REGION")),
    "endpoint_url": ("endpoint", ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT")),
}


def profile_options() -> dict[str, str]:
    """Keys, region and endpoint of AWS_PROFILE, or of the profile `default`; none that environment variables set."""
    profile = os.environ.get("AWS_PROFILE", "default")
    config = _read("AWS_CONFIG_FILE", "config", f"profile {profile}" if profile != "default" else profile)
    stored = {**config, **_read("AWS_SHARED_CREDENTIALS_FILE", "credentials", profile)}
    options = {
        option: config[name]
        for name, (option, variables) in PLACE.items()
        if name in config and not any(os.environ.get(variable) for variable in variables)
    }
    if any(os.environ.get(variable) for variable in ENVIRONMENT):
        return options
    if "AWS_PROFILE" in os.environ and "aws_access_key_id" not in stored:
        raise StorageError(
            f"the AWS profile {profile} has no access key here: eval $(aws configure export-credentials "
            f"--profile {profile} --format env) sets keys of single sign-on and roles"
        )
    return options | {option: stored[name] for name, option in KEYS.items() if name in stored}


def _read(variable: str, default: str, section: str) -> dict[str, str]:
    path = Path(os.environ.get(variable) or Path.home() / ".aws" / default)
    parser = configparser.RawConfigParser()
    try:
        parser.read(path, encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError, OSError) as error:
        raise StorageError(f"{path} cannot be read: {type(error).__name__}") from error
    return dict(parser[section]) if section in parser else {}
