"""Bytes, wherever they lie: paths, whole files, and one interface over folders and s3://."""
