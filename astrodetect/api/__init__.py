"""The Python API, whose names are those of `astrodetect.__all__`."""
