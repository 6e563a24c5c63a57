"""Tells Prometheus what the registry and the records of retrainings say."""
