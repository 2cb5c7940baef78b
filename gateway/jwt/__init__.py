"""Tokens in place of keys: JSON Web Tokens of issuers that the configuration trusts (RFC 7519, OpenID Connect)."""

from gateway.jwt.optional import tokens_of

__all__ = ["tokens_of"]
