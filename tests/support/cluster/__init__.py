"""A cluster that is simulated: the project's own workers, leases and files on a clock and a bucket that are made up."""
