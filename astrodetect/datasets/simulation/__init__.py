"""Simulated survey images of galaxies and rare objects."""
