"""Where results go: records, policy and signing, the serving-side package, files."""
