"""Requests to AWS are signed by botocore, with keys from its chain: environment, profile, role, instance metadata."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable, Mapping
from typing import Protocol
from urllib.parse import urlsplit

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials, ReadOnlyCredentials
from botocore.session import Session

from engines.base import EngineUnreachable

logger = logging.getLogger(__name__)

_RETRY_S = 5.0
"""Least time between two refreshes that fail, while the present keys still serve."""
_LAST_S = 60
"""With less than this left to their expiry, keys are not used any more."""
_HASH_INLINE_BYTES = 1024 * 1024
"""Bodies up to this size are hashed on the loop (under 1 ms)."""
_ADDED = ("authorization", "x-amz-content-sha256", "x-amz-date", "x-amz-security-token")


class KeySource(Protocol):
    """botocore's `Credentials`, as far as they are used here."""

    def get_frozen_credentials(self) -> ReadOnlyCredentials:
        """The keys; fetched anew if they expire soon. Blocks."""
        ...


class KeyChain:
    """Keys for signing. They are looked up and refreshed in a thread, by one at a time, and kept until they expire.

    find: gives botocore's credentials, or None if there are none. Blocks.
    """

    def __init__(self, find: Callable[[], KeySource | None]) -> None:
        self._find = find
        self._source: KeySource | None = None
        self._keys: ReadOnlyCredentials | None = None
        self._fetch: asyncio.Future[Exception | None] | None = None
        self._retry_at_s = 0.0

    def __repr__(self) -> str:
        return f"<KeyChain {'with' if self._keys else 'without'} keys>"

    async def keys(self) -> ReadOnlyCredentials:
        """Keys that are good for a while.

        Raises:
            EngineUnreachable: there are none.
        """
        keys = self._keys
        if keys is None or self._expires_within(None):
            usable = keys is not None and not self._expires_within(_LAST_S)
            fetch = self._fetch
            if fetch is None and not (usable and time.monotonic() < self._retry_at_s):
                fetch = self._fetch = asyncio.get_running_loop().run_in_executor(None, self._look_up)
                fetch.add_done_callback(self._fetched)
            if fetch is not None and not usable:
                await asyncio.wait([fetch])
                error = fetch.result()
                if error is not None:
                    raise EngineUnreachable(f"no AWS credentials: {error}")
        assert self._keys is not None
        return self._keys

    def _expires_within(self, left_s: int | None) -> bool:
        """Whether the keys have less than `left_s` to live; None: less than botocore wants them to have."""
        refresh_needed = getattr(self._source, "refresh_needed", None)
        return refresh_needed is not None and bool(refresh_needed(left_s))

    def _look_up(self) -> Exception | None:
        """Runs in a thread. An error is given back: nobody may be left to raise it to."""
        try:
            source = self._source or self._find()
            if source is None:
                return LookupError("botocore found none in environment, profile, role or instance metadata")
            self._keys = source.get_frozen_credentials()
            self._source = source
        except Exception as error:
            return error
        return None

    def _fetched(self, fetch: asyncio.Future[Exception | None]) -> None:
        self._fetch = None
        error = None if fetch.cancelled() else fetch.result()
        self._retry_at_s = time.monotonic() + _RETRY_S
        if error is not None:
            logger.warning("no AWS credentials: %s", error)


class SigV4Signer:
    """Implements `Signer`."""

    def __init__(self, chain: KeyChain, service: str, region: str) -> None:
        self._chain = chain
        self._service = service
        self._region = region

    async def headers(self, method: str, url: str, headers: Mapping[str, str], body: bytes) -> Mapping[str, str]:
        keys = await self._chain.keys()
        if len(body) > _HASH_INLINE_BYTES:
            digest = await asyncio.to_thread(_sha256, body)
        else:
            digest = _sha256(body)
        # botocore would leave a default port out of the host, while the connection sends what stands in the URL.
        host = urlsplit(url).netloc.rpartition("@")[2]
        request = AWSRequest(method, url, {**headers, "host": host, "x-amz-content-sha256": digest})
        SigV4Auth(keys, self._service, self._region).add_auth(request)
        return {name: request.headers[name] for name in _ADDED if name in request.headers}


def fixed_keys(access_key_id: str, secret_access_key: str, session_token: str | None) -> KeyChain:
    """Keys that stand in the configuration."""
    return KeyChain(lambda: Credentials(access_key_id, secret_access_key, session_token))


def keys_of_machine(profile: str | None) -> KeyChain:
    """Keys from botocore's chain; `profile` is one of `~/.aws/config`, None: the default."""
    return KeyChain(lambda: Session(profile=profile).get_credentials())


def _sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()
