"""Prove that a graph computes what its network does (`parity`), and what a precision costs (`gate`)."""
