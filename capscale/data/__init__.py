"""Text to symbols to batches addressed by (seed, step)."""
