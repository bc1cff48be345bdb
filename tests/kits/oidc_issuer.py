"""An OpenID Connect issuer on loopback that signs tokens."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

CLIENT = "millstream"


def rsa_key() -> rsa.RSAPrivateKey:
    """A new RSA key of 2,048 bits."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


class Issuer:
    """Serves a discovery document and its public key over HTTP, and signs tokens (RS256) in the shape of Keycloak's."""

    def __init__(self) -> None:
        self.key = rsa_key()
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = json.dumps(issuer.documents()[self.path]).encode()
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables that `feature_store_secured.yaml` reads."""
        return {
            "OIDC_DISCOVERY_URL": f"{self.url}/.well-known/openid-configuration",
            "OIDC_CLIENT_ID": CLIENT,
            "OIDC_ISSUER": self.url,
            "OIDC_AUDIENCE": CLIENT,
        }

    def documents(self) -> dict[str, Any]:
        public = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(self.key.public_key()))
        return {
            "/.well-known/openid-configuration": {
                "issuer": self.url,
                "jwks_uri": f"{self.url}/keys",
                "token_endpoint": f"{self.url}/token",
                "authorization_endpoint": f"{self.url}/authorize",
            },
            "/keys": {"keys": [public | {"kid": "one", "use": "sig", "alg": "RS256"}]},
        }

    def token(self, *roles: str, key: rsa.RSAPrivateKey | None = None, **claims: Any) -> str:
        """A signed token of a user with these roles; `claims` replace the default claims."""
        now = int(time.time())
        usual = {
            "iss": self.url,
            "aud": CLIENT,
            "sub": "somebody",
            "iat": now,
            "exp": now + 600,
            "resource_access": {CLIENT: {"roles": list(roles)}},
        }
        return jwt.encode(usual | claims, key or self.key, algorithm="RS256", headers={"kid": "one"})
