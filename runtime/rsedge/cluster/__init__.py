"""Have the workers of a Dask cluster make the parts of a mask; its bytes are those of a local run.

``segment(..., runner=cluster.run)`` with `client.Cluster`; `worker` is what runs over there.
"""

from rsedge.cluster.client import Cluster

__all__ = ["Cluster"]
