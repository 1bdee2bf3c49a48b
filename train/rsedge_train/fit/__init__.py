"""Fit a network: the training loop, its losses, its averages, and the state from which it resumes.

Knows batches and steps, but neither run folders nor commands.
"""
