"""Dashboards, and who is told: `build` makes what `dashboards/` holds."""

import warnings

# The classic dashboard is what every Grafana since 10 takes; the SDK would rather see its successor.
warnings.filterwarnings("ignore", category=DeprecationWarning, module="grafana_foundation_sdk")
warnings.filterwarnings("ignore", message=".*dashboardv2.*", category=DeprecationWarning)
