"""`rsedge verify`: does this machine answer as the reference does?"""
