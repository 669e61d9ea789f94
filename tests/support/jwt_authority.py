# SPDX-License-Identifier: Apache-2.0
"""Signs JWT-SVIDs and publishes the keys, as a SPIRE server's JWT authority does.

Apart from the issuer so that a test of the fake AWS can mint a token without a Workload API.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import jwt

from . import certs

_ALGORITHM_KEYS = {"ES256": "ec-p256", "ES384": "ec-p384", "RS256": "rsa-2048"}

Edit = Callable[[dict[str, Any], dict[str, Any]], None]


class JwtAuthority:
    """One signing key at a time, and every key that is still published."""

    def __init__(self, algorithm: str = "ES256", *, issuer: str = "", key_use: str = "jwt-svid") -> None:
        self.algorithm = algorithm
        self.issuer = issuer
        self.key_use = key_use
        self._keys: list[tuple[str, certs.PrivateKey]] = []
        self._serial = 0
        self.rotate()

    def rotate(self, *, keep_old: bool = True, publish: bool = True) -> str:
        """Signs with a new key from now on; `publish=False` is the race where AWS cannot know it yet."""
        self._serial += 1
        kid = f"key-{self._serial:04d}"
        self.key = certs.new_key(_ALGORITHM_KEYS[self.algorithm])
        self.kid = kid
        if not keep_old:
            self._keys.clear()
        if publish:
            self._keys.append((kid, self.key))
        return kid

    def publish(self) -> None:
        """Makes the current signing key public, if `rotate(publish=False)` held it back."""
        if all(kid != self.kid for kid, _ in self._keys):
            self._keys.append((self.kid, self.key))

    def retire_old(self) -> None:
        """Takes every key but the signing one out of the published set."""
        self._keys = [(kid, key) for kid, key in self._keys if kid == self.kid]

    def sign(
        self,
        spiffe_id: str,
        audience: str | Sequence[str],
        *,
        ttl: float = 300,
        age: float = 0,
        edit: Edit | None = None,
    ) -> str:
        """A token; `age` says how long ago it was made (an agent's cache hands out half-lived ones).

        `aud` is an array even for one audience, as SPIRE writes it; `edit(claims, headers)` spoils it.
        """
        issued = int(time.time() - age)
        claims: dict[str, Any] = {
            "sub": spiffe_id,
            "aud": [audience] if isinstance(audience, str) else list(audience),
            "iat": issued,
            "exp": int(issued + ttl),
        }
        if self.issuer:
            claims["iss"] = self.issuer
        headers: dict[str, Any] = {"kid": self.kid, "typ": "JWT"}
        if edit:
            edit(claims, headers)
        return jwt.encode(claims, self.key, algorithm=self.algorithm, headers=headers)

    def jwks(self) -> dict[str, Any]:
        """The published keys, as the trust domain's JWT bundle and an OIDC provider's /keys have them."""
        keys = []
        for kid, key in self._keys:
            algorithm = jwt.get_algorithm_by_name(self.algorithm)
            entry = json.loads(algorithm.to_jwk(key.public_key()))
            entry.pop("key_ops", None)
            entry.update(kid=kid, use=self.key_use)
            if self.key_use == "sig":
                entry["alg"] = self.algorithm
            keys.append(entry)
        return {"keys": keys}
