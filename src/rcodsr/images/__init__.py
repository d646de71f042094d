"""Pixels: reading and writing pictures, resizing, tiling, colour."""
