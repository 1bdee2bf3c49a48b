"""The training loop and what it needs: losses, averages, state, processes."""
