"""Cross-entropy of tokens, and its gradients by their logits and features."""

from .op import choose, cross_entropy
from .reference import CrossEntropyGradients

__all__ = ["CrossEntropyGradients", "choose", "cross_entropy"]
