"""Compressed formats: frozen dataclasses that project the last axis of a tensor."""
