"""The one inference engine behind every door."""
