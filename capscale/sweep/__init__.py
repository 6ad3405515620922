"""Many runs: what is missing, who trains it, and what has been done."""
