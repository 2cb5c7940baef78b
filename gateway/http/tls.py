"""The certificate that the gateway's own servers show."""

from __future__ import annotations

import ssl

from gateway.config import Config


def server_tls(config: Config) -> ssl.SSLContext | None:
    """None: it is plain HTTP.

    Raises:
        OSError: the certificate or its key cannot be read.
    """
    if config.server.tls is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(config.server.tls.cert, config.server.tls.key)
    context.set_alpn_protocols(["http/1.1"])
    return context
