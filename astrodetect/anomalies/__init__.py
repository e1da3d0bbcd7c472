"""Unusual objects: descriptions to novelty, rankings, labels and explanations."""
