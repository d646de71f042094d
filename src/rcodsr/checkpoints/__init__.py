"""Checkpoints on disk: the manifest, resolving a name to files, and rcodsr's directory format."""
