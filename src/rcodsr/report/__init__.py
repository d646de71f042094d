"""Pictures for people: charts."""
