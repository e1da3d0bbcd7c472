"""From a folder of sky images to a trained classifier and a running detection service."""

__version__ = "0.1.0"
