"""Metrics and reports of a model."""
