"""Inference with OpenVINO: the engine, batching, decisions, and pipelines over many files."""
