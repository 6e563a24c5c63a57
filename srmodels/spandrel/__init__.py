"""The architectures that the library spandrel collects, as networks to train."""
