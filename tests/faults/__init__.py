"""The fault matrix: real workers and a real broker, hurt in every way that we know, against true counts.

python -m tests.faults --help

A round makes topics of its own, starts workers (`tests/streams/counting_worker.py`, which only count), sends
events all the while and does some faults to them. Then everything is left to recover, and the state of every
key, every alert, command and dead letter is compared with what the events on the topic call for.
"""
