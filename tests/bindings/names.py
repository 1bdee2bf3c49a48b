"""Says which of the names in argv the real bindings have. Run by test_bindings.py in a process of its own."""

import json
import os
import sys
from functools import reduce

import tensorrt_bindings as trt


def there(name: str) -> bool:
    try:
        reduce(getattr, name.split("."), trt)
    except AttributeError:
        return False
    return True


print(json.dumps({name: there(name) for name in sys.argv[1:]}))  # noqa: T201
sys.stdout.flush()
os._exit(0)
