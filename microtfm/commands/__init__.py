"""The commands, one file a group. What is heavy is imported where it is needed, so that help comes at once."""
import time

STARTED = time.monotonic()               # when the command began
