"""RDSR (doi 10.1007/978-981-97-8685-5_7): a reparameterised decoder steered by a diffused prior."""
