"""Which values of a configuration nobody may see."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

from pydantic import SecretStr

from gateway.config import Config, Redis


def revealed(value: object) -> str:
    """For encoders, where a configuration is to be encoded with its secrets."""
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    raise NotImplementedError(type(value))


def secrets_of(config: Config) -> list[str]:
    """Every secret value in a configuration, for those who must not show them."""
    found = [config.auth.salt, *(k.key for k in config.auth.keys if k.key)]
    for pool in config.pools.values():
        found += [*pool.engine.headers.values(), *([pool.engine.api_key] if pool.engine.api_key else [])]
        found += [pool.engine.azure.client_secret] if pool.engine.azure.client_secret else []
        aws = pool.engine.aws
        found += [secret for secret in (aws.secret_access_key, aws.session_token) if secret is not None]
    found += config.telemetry.tracing.otlp_headers.values()
    values = [secret.get_secret_value() for secret in found]
    if config.content_log is not None:
        values += [key.get_secret_value() for key in (config.content_log.key, *config.content_log.old_keys)]
    if config.database is not None:
        values += _password_in(config.database.url.get_secret_value())
    if config.redis is not None:
        values += _of_redis(config.redis)
    return [value for value in dict.fromkeys(values) if value]


def _password_in(url: str) -> list[str]:
    """As it is written and as it is meant."""
    try:
        written = urlsplit(url).password or ""
    except ValueError:
        return []
    return [written, unquote(written)]


def _of_redis(redis: Redis) -> list[str]:
    urls = [redis.url or "", *(redis.sentinel.urls if redis.sentinel is not None else [])]
    written = [urlsplit(url).password or "" for url in urls]
    named = [redis.password.get_secret_value()] if redis.password is not None else []
    return [*named, *written, *map(unquote, written)]
