"""The version of the package: recorded in every picture, read by the build."""

__version__ = "0.2.0"
