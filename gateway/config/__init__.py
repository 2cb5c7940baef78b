"""The configuration: its tree of models here, reading and checking in `gateway.config.load`."""

from gateway.config.base import Name, Section, without_version
from gateway.config.cache_options import Cache
from gateway.config.engine_options import EngineOptions
from gateway.config.failure_options import Fallbacks, Hedge
from gateway.config.models import (
    AccessLog,
    Auth,
    Config,
    Deployment,
    Key,
    Pool,
    Server,
    Telemetry,
    TimeoutOptions,
    Tls,
    Tracing,
    Variant,
)
from gateway.config.queue_options import QueueOptions
from gateway.config.redis_options import Redis
from gateway.config.residency_options import Residency, Site

__all__ = [
    "AccessLog",
    "Auth",
    "Cache",
    "Config",
    "Deployment",
    "EngineOptions",
    "Fallbacks",
    "Hedge",
    "Key",
    "Name",
    "Pool",
    "QueueOptions",
    "Redis",
    "Residency",
    "Section",
    "Server",
    "Site",
    "Telemetry",
    "TimeoutOptions",
    "Tls",
    "Tracing",
    "Variant",
    "without_version",
]
