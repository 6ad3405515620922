"""capscale: compressed training formats, their capacity, and unified scaling laws (arXiv 2506.01863)."""

__version__ = "0.1.0"
