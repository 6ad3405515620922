"""Helpers of the tests: small models and texts, made-up tables, imitations of storage, limits of time."""
