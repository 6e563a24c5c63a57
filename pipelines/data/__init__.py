"""Turns photos into shards and a manifest, and orders their samples into batches of crops."""
