"""Checkpoints of others: read, compressed, written in the layouts that other libraries load, and audited."""
