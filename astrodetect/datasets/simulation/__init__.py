"""Simulated sky images."""
