"""A module that cannot be imported where compiled code is loaded, as if that were spoilt."""

import os

if os.environ["MPNET_JIT"] == "load":
    raise SystemExit("spoilt")
