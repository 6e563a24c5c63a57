"""How the platform is stood up."""
