"""Training of a network: the loop, its losses, its averages, and the state from which it resumes.

Depends on batches and steps, not on run folders or commands.
"""
