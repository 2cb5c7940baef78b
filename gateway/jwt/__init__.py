"""Tokens in place of keys: JSON Web Tokens of issuers that the configuration trusts (RFC 7519, OpenID Connect)."""

from gateway.jwt.verifier import Verifier

__all__ = ["Verifier"]
