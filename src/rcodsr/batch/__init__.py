"""Plan jobs from command-line arguments and run them."""
