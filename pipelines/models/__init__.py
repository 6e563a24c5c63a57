"""Models: what names one, what loads it, and the bundle that it ships in."""
