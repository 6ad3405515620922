"""The fast memory of a TPU core, as far as every generation has it."""

VMEM = 16 * 2**20
"""Bytes: the whole of a v4 core's; later generations have more."""
SPILLED = 2**20
"""Bytes of them that the compiler may use for itself, registers that it spills above all."""
