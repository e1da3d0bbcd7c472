"""Model inference with OpenVINO."""
