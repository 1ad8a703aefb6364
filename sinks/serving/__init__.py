"""What a provider loads in its own process: key references, sketches, the emitter, the enforcer.

Imports neither Faust nor River nor numba (import-linter checks it).
"""
