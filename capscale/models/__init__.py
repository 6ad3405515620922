"""Models whose every linear layer goes through capscale.representation.linear."""
