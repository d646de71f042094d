"""The command line: thin layers over the engine."""
