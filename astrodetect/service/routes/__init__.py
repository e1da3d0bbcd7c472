"""The HTTP API, one router per subject."""
