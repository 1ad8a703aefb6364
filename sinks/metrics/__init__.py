"""Metrics: one typed catalogue (`catalogue`) that every process counts by (`instruments`).

To add a metric, put one entry into `catalogue`; then `instruments.add(IT, ...)`, `.set` or `.observe`, and
`python -m sinks.metrics` for the documents. Nothing else makes a metric.
"""
