"""Tests of optional packages, where these are installed: `make test-extras`."""

from tests.support.torchvision_operators import declare

declare()
