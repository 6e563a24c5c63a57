"""Stores bytes: paths, whole files, and one interface over folders and s3:// prefixes."""
