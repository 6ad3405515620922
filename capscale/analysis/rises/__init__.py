"""Rises of the loss when trained weights are rounded: tables of `capscale quantize --csv`, laws of them, claims."""
