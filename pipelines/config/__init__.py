"""From the command line and a recipe to one checked configuration."""
