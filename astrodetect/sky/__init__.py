"""Positions on the sky: reading and checking them, HEALPix indexes, catalogues, and cone search."""
