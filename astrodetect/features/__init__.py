"""Feature extraction: pixels to the numbers that describe an object."""
