"""`rsedge watch`: segment each raster that lands in a folder once, whatever ends the watcher.

`folder` decides what to do, `ledger` remembers what was done. This package imports nothing, because a health check
reads only the ledger, every few seconds.
"""
