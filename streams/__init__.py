"""Kafka and Faust: topics, codecs, the worker, the in-process runner, replay, simulation, commands."""

__version__ = "0.1.0"
