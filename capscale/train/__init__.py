"""One run: from a frozen Run to a result row."""
