"""Photos and their synthetic degradation."""
