"""The inference engine behind the command line, Python and batches."""
