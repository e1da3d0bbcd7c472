"""Batch scoring of image folders."""
