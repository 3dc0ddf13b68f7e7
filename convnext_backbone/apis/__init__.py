"""Trained models in use: build them from config and checkpoint, run them on images, draw and write the results."""
