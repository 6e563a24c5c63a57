"""Sets up the platform that the jobs run on."""
