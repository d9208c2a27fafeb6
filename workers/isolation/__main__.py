"""``python -m mpnet.workers.isolation``: isolate this process as a worker is and print the stages, as JSON."""

import json
import sys

from mpnet.workers.isolation.stages import isolate

json.dump([stage._asdict() for stage in isolate(sys.argv[1])], sys.stdout)
sys.stdout.flush()
