"""Proof that a graph computes what its network does (`parity`), and the cost of a precision (`gate`)."""
