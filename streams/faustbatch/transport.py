"""The transport that makes batch consumers."""

from __future__ import annotations

from faust.transport.drivers import aiokafka as driver

from streams.faustbatch.consumer import BatchConsumer


class BatchTransport(driver.Transport):
    """Faust's aiokafka transport with our consumer."""

    Consumer = BatchConsumer
