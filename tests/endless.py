"""A module whose import takes for ever, as a first compilation seems to."""

import time

while True:
    time.sleep(1)
