"""`headrace fake-engine`."""

from engines.fake.command import fake_engine

__all__ = ["fake_engine"]
