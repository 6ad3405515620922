"""Launch files for machines elsewhere, generated from a planned sweep: each starts `capscale run` or `capscale sweep`.

Every file is a bash script, started on a machine that has `capscale` and sees `--out`. It asks `capscale missing` which
runs have no result, and submits those alone that are not under way already: starting it again is how to go on.
`--dry-run` prints the commands instead of running them. Workers that are started twice do the work once, and a worker
that is preempted leaves a checkpoint.
"""
