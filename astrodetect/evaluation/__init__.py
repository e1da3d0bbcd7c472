"""Evaluation: ground truth and model outputs to metrics, intervals and calibration."""
