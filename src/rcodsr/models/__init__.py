"""Networks and the one-step model built from them. No files are touched here."""
