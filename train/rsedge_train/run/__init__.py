"""One training from request to run folder."""
