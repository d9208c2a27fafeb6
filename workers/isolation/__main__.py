"""``python -m mpnet.workers.isolation``: isolate this process as a worker is and print the stages, as JSON."""

import json
import os
import sys

from mpnet.workers.isolation.stages import isolate

sys.stdout.write(json.dumps([stage._asdict() for stage in isolate(sys.argv[1])]))
sys.stdout.flush()
os._exit(0)  # the interpreter would make calls at its end that no worker makes
