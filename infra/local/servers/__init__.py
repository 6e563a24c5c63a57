"""The servers of the local platform, one module for each."""
