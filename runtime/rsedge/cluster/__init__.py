"""Segmentation on the workers of a Dask cluster, with the same bytes as a local run.

Call ``segment(..., runner=cluster.run)`` with `client.Cluster`; `worker` runs on the workers.
"""

from rsedge.cluster.client import Cluster

__all__ = ["Cluster"]
