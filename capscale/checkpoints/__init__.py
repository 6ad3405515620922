"""Checkpoints of others: read, compressed, written in the layouts that other libraries load, and audited.

from capscale.checkpoints import huggingface

model, params = huggingface.load(Path("Llama-3.2-1B"))
"""
