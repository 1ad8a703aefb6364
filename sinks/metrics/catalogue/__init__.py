"""Every metric there is, in one module for each part that tells it, and all of them here.

No label holds a key, but for references of flagged keys. To add a metric: write it in the module of its
process (name, help, what it tells the operator, components, unit, labels), count it with `Instruments`, run
`python -m sinks.metrics`. A label has listed values, or a bound on their number; what traffic can invent
(keys, models, tenants, texts) is no label, except in series with a budget.
"""

from __future__ import annotations

from sinks.metrics.catalogue.enforcement import *  # noqa: F403 - same
from sinks.metrics.catalogue.oncall import *  # noqa: F403 - same
from sinks.metrics.catalogue.serving import *  # noqa: F403 - same
from sinks.metrics.catalogue.worker import *  # noqa: F403 - each entry once, in the order of the documents
from sinks.metrics.definition import Metric

CATALOGUE: dict[str, Metric] = {
    metric.name: metric for metric in list(globals().values()) if isinstance(metric, Metric)
}
"""Every metric by its name, in the order above."""
