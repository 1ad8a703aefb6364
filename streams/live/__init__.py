"""A whole deployment on this machine: a real model server, real clients and attacks over HTTP, real Kafka.

`modelwarden demo --kafka` shows it to a person; the end-to-end test runs the same. Needs
FastAPI, uvicorn and scikit-learn, which the program itself does not.
"""
