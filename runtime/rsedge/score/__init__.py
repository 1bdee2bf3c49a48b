"""`rsedge eval`: labels read, masks scored."""
