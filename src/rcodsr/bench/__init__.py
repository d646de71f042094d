"""Measurement: picture quality."""
