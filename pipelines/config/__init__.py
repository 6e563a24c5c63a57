"""Makes one checked configuration of the command line and a recipe; parses model references."""
