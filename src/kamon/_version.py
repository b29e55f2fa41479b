"""The version of Kamon."""

__version__ = "0.1.0"
