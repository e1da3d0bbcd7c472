"""The commands of `python -m astrodetect`, one per module: `add_parser` declares the options, `run` executes it.

`astrodetect/__main__.py` lists the modules. `run` returns the exit code.
"""
