"""Pictures for people: charts, comparisons."""
