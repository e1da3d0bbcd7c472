"""Labelled image data sets: reading, quality control, splits, sources and simulation."""
