"""Truth and scores to numbers and pictures."""
