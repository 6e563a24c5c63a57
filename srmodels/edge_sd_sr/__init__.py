"""Edge-SD-SR (arXiv 2412.06978): one-step latent diffusion super-resolution for phones."""
