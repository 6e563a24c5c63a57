"""Measuring models on images, and the report about it."""
