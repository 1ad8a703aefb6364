"""The three wire formats of the events topic, to columns: JSON, the binary record, the micro-batch.

`streams.formats.decode` is the one interface; deploy/docs/formats.md describes the formats.
"""
