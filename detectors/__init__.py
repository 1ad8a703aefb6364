"""Pure computation: columns of events in, alerts out. No I/O, no clock, no Kafka.

This package's own import is light (no numba, no River), because the serving side imports
`detectors.alert` and `detectors.batch` through the records.
"""
