"""Detectors of unusual objects, one algorithm per file."""
