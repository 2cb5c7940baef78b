"""Public keys of an issuer, from its JWK Set (RFC 7517). No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import jwt
import msgspec
from jwt.algorithms import Algorithm, get_default_algorithms

MAX_KEYS = 64
"""Taken of one set; what comes after is not looked at."""
RSA_BITS = range(2048, 8193)
"""Shorter ones can be broken; longer ones take milliseconds to check."""
_RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_ALGORITHMS: dict[tuple[str, str | None], tuple[str, ...]] = {
    ("RSA", None): _RSA,
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-384"): ("ES384",),
    ("EC", "P-521"): ("ES512",),
    ("OKP", "Ed25519"): ("EdDSA",),
}
"""What a key may be used for, by `kty` and `crv`. A signature of any other kind finds no key, whatever a token says."""


class Jwk(msgspec.Struct, omit_defaults=True):
    """The public members alone: what is private or symmetric is never read."""

    kty: str
    kid: str | None = None
    use: str | None = None
    key_ops: list[str] | None = None
    alg: str | None = None
    crv: str | None = None
    x: str | None = None
    y: str | None = None
    n: str | None = None
    e: str | None = None


class Jwks(msgspec.Struct):
    keys: list[msgspec.Raw]


_decode_set = msgspec.json.Decoder(Jwks).decode
_decode_key = msgspec.json.Decoder(Jwk).decode


@dataclass(slots=True, eq=False)
class Key:
    """One key for one algorithm. `listed`: whether its issuer still lists it; what it signed is good for as long."""

    jwk: Jwk
    algorithm: str
    scheme: Algorithm
    public: object
    listed: bool = True

    def signed(self, message: bytes, signature: bytes) -> bool:
        return bool(self.scheme.verify(message, self.public, signature))


class KeySet:
    """Finds a key by algorithm and name. Both must fit, so that no key is ever used in a way it is not for."""

    def __init__(self, keys: Iterable[Key] = ()) -> None:
        self._named: dict[tuple[str, str], Key] = {}
        self._all: dict[str, list[Key]] = {}
        for key in keys:
            self._all.setdefault(key.algorithm, []).append(key)
            if key.jwk.kid is not None:
                self._named.setdefault((key.algorithm, key.jwk.kid), key)

    def __iter__(self) -> Iterator[Key]:
        return (key for keys in self._all.values() for key in keys)

    def find(self, algorithm: str, kid: str | None) -> Key | None:
        """A token without `kid` is checked with the only key of its algorithm, if there is one only."""
        if kid is not None:
            return self._named.get((algorithm, kid))
        keys = self._all.get(algorithm, ())
        return keys[0] if len(keys) == 1 else None

    def followed_by(self, keys: Iterable[Key]) -> KeySet:
        """The set that comes after this one: keys that stay are the same objects, those that go lose `listed`."""
        known = {(key.algorithm, msgspec.json.encode(key.jwk)): key for key in self}
        kept = [known.pop((key.algorithm, msgspec.json.encode(key.jwk)), key) for key in keys]
        for gone in known.values():
            gone.listed = False
        return KeySet(kept)


def read_keys(body: bytes, algorithms: Iterable[str]) -> list[Key]:
    """The usable keys of a JWK Set, in its order, once for each of `algorithms` that they may be used for.

    Keys of other kinds, for encryption, too short or malformed ones are passed over.

    Raises:
        ValueError: it is no JWK Set, or none of its keys is usable.
    """
    try:
        raw = _decode_set(body).keys
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(f"not a JWK Set: {error}") from None
    allowed = frozenset(algorithms)
    found = [key for one in raw[:MAX_KEYS] for key in _usable(one, allowed)]
    if not found:
        raise ValueError(f"none of its {len(raw)} keys can be used for {', '.join(sorted(allowed))}")
    return found


def _usable(raw: msgspec.Raw, allowed: frozenset[str]) -> Iterator[Key]:
    try:
        one = _decode_key(raw)
    except (msgspec.MsgspecError, RecursionError):
        return
    if one.use not in (None, "sig") or (one.key_ops is not None and "verify" not in one.key_ops):
        return
    for algorithm in _ALGORITHMS.get((one.kty, one.crv), ()):
        if algorithm in allowed and one.alg in (None, algorithm):
            key = _made(one, algorithm)
            if key is not None:
                yield key


def _made(one: Jwk, algorithm: str) -> Key | None:
    members = {
        name: value for name, value in msgspec.to_builtins(one).items() if name in ("kty", "crv", "x", "y", "n", "e")
    }
    try:
        public = jwt.PyJWK(members, algorithm).key
    except (jwt.PyJWTError, ValueError, TypeError):
        return None
    if one.kty == "RSA" and public.key_size not in RSA_BITS:
        return None
    return Key(one, algorithm, _SCHEMES[algorithm], public)


_SCHEMES = get_default_algorithms()
