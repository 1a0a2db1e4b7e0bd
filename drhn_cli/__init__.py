"""drhn finds pictures by content, with short binary codes from a Deep Residual Hashing Network."""

__version__ = "0.1.0"
