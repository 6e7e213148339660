"""Where an endpoint is and what lets requests in."""

from __future__ import annotations

import base64
from urllib.parse import quote, unquote, urlsplit, urlunsplit
from urllib.request import getproxies, proxy_bypass

from pipeline_lib.errors import ConfigError
from pipeline_lib.settings import Settings


class Address:
    """The address of chat completions, its headers and proxy.

    Attributes:
        url: where to post to; may hold a query, never credentials.
        shown: the base URL as it may be shown.
        headers: the key, as the server wants it.
        secrets: what no message may hold.
        proxy: address of the environment's proxy, if it is meant for this server.

    Raises:
        ConfigError: no endpoint is set, or it is no HTTP address.
    """

    def __init__(self, settings: Settings, model: str) -> None:
        base = settings.teacher_base_url
        if not base:
            raise ConfigError(
                f"The teacher {model!r} is an endpoint, but none is set",
                hint="Set RAFTLINE_TEACHER_BASE_URL, for example http://localhost:8000/v1, and "
                "RAFTLINE_TEACHER_API_KEY if the server wants a key.",
            )
        try:
            parts = urlsplit(base)
            host, port = parts.hostname, parts.port
        except ValueError:
            host, port, parts = None, None, urlsplit("")
        if parts.scheme not in ("http", "https") or not host:
            raise ConfigError(
                f"The endpoint of the teacher {model!r} has no valid address",
                hint="RAFTLINE_TEACHER_BASE_URL should look like http://localhost:8000/v1.",
            )
        place = f"[{host}]" if ":" in host else host
        place = place if port is None else f"{place}:{port}"
        path = parts.path.rstrip("/")
        self.shown = urlunsplit((parts.scheme, place, path, "", ""))
        version = settings.teacher_api_version
        query = [parts.query] if parts.query else []
        query += [f"api-version={quote(version, safe='')}"] if version else []
        self.url = urlunsplit(
            (parts.scheme, place, f"{path}/chat/completions", "&".join(query), "")
        )
        key = settings.teacher_api_key and settings.teacher_api_key.get_secret_value().strip()
        self.secrets = [secret for secret in (key, parts.password) if secret]
        self.headers: dict[str, str] = {}
        if key:
            name, value = ("api-key", key) if version else ("Authorization", f"Bearer {key}")
            self.headers[name] = value
        elif parts.username:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            self.headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        # As the standard library reads the environment; no credentials out of a netrc file.
        self.proxy = None if proxy_bypass(place) else getproxies().get(parts.scheme)
