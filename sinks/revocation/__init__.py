"""Automated key revocation: signed commands in, calls to the provider's own key store out."""
