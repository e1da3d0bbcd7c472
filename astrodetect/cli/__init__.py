"""The verbs of `python -m astrodetect`: one a file, arguments → calls → one printed result.

Each has `add`, which describes its command line, and `run`, which does it and returns the exit code.
"""
