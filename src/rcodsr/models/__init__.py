"""Networks and the one-step model built from them. No file access."""
