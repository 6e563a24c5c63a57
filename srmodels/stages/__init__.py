"""Training programs that systems share."""
