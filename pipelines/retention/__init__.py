"""Finds and removes what nobody needs any more."""
