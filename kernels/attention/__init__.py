"""Causal attention of one sequence's tokens to each other."""

from .op import causal_attention, choose

__all__ = ["causal_attention", "choose"]
