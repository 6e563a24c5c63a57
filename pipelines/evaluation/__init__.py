"""Measures models on images, and writes a report about it."""
