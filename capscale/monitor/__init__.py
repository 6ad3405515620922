"""A sweep while it runs, as one page: states, curves, price, starts and failures."""
