"""Proof that an exported graph computes what the network computes, and what a precision costs."""
