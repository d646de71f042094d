"""Checkpoints on disk: the manifest, resolving a name to files, and our directory format."""
