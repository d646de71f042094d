"""Training of the one-step generator."""
