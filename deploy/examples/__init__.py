"""Working examples to copy: a served model, proxies with the sidecar, a provider's revocation endpoint."""
