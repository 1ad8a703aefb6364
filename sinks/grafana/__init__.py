"""Grafana: what a deployment's on-call engineers see, told to a server through grafana-api.

`client` is the only way to the server; `desired` is what should stand there, `plan` what is missing;
`alerting` makes Grafana's alert rules from Prometheus's; `silences` guards what may be silenced.
"""
