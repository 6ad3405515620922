"""The capscale command."""
