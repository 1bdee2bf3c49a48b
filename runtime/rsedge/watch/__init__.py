"""`rsedge watch`: segment what lands in a folder, each raster once, whatever ends the watcher.

`folder` decides what to do, `ledger` remembers what was done. Nothing is imported here: a health check reads the ledger
alone, every few seconds.
"""
