"""Weights files of any supported format: read safely, detected, loaded strictly and converted."""
