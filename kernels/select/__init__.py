"""Exact selection by magnitude, without a sort."""
