"""Two tables side by side: runs that they share, capacities, laws, and how their runs were made."""
