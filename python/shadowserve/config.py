"""`kv_connector_extra_config`: its keys, their defaults and their bounds. An unknown key is an error."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

# A chunk is the unit of hashing, lookup and hit (src/format/kv_layout.h: kChunkTokens).
CHUNK_TOKENS = 256
# A chunk that is not read within this is given up: its pages must not be held for ever.
SAVE_DEADLINE_S = 30.0


class RefusedError(ValueError):
    """This engine can never work with ShadowServe as it is set up; the message names what and the remedy."""


@dataclass(frozen=True)
class ConnectorConfig:
    """One engine's settings; the names are those of the keys."""

    data_plane: str
    tls_ca_file: str = ""  # with a tcp:// address: all three or none
    tls_cert_file: str = ""
    tls_key_file: str = ""
    profile: str = ""  # "" = the data plane's default
    save: bool = True
    save_decode: bool = False
    lookup_timeout_s: float = 0.5
    fetch_deadline_s: float = 10.0
    min_hit_tokens: int = CHUNK_TOKENS

    def data_plane_options(self) -> dict[str, object]:
        """Where the data plane is and how it is reached, as both halves tell it (_core.pyi)."""
        return {
            "data_plane": self.data_plane,
            "tls_ca_file": self.tls_ca_file,
            "tls_cert_file": self.tls_cert_file,
            "tls_key_file": self.tls_key_file,
        }


def _is_address(value: Any) -> bool:
    return isinstance(value, str) and (
        (value.startswith("unix:///") and len(value) > len("unix:///"))
        or (value.startswith("tcp://") and ":" in value.removeprefix("tcp://"))
    )


def _is_path(value: Any) -> bool:
    return isinstance(value, str) and value.startswith("/")


def _is_seconds(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= 3600


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


_CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "data_plane": (_is_address, "'unix:///path' or 'tcp://host:port'"),
    "tls_ca_file": (_is_path, "a path that begins with '/'"),
    "tls_cert_file": (_is_path, "a path that begins with '/'"),
    "tls_key_file": (_is_path, "a path that begins with '/'"),
    "profile": (lambda value: isinstance(value, str), "a string"),
    "save": (lambda value: isinstance(value, bool), "true or false"),
    "save_decode": (lambda value: isinstance(value, bool), "true or false"),
    "lookup_timeout_s": (_is_seconds, "seconds, more than 0 and at most 3600"),
    "fetch_deadline_s": (_is_seconds, "seconds, more than 0 and at most 3600"),
    "min_hit_tokens": (_is_count, "a whole number of tokens, at least 1"),
}
assert set(_CHECKS) == {field.name for field in fields(ConnectorConfig)}


def parse_config(extra: Mapping[str, Any]) -> ConnectorConfig:
    """Raises RefusedError naming the first key that is unknown, missing or has a bad value."""
    for key, value in extra.items():
        if key not in _CHECKS:
            raise RefusedError(
                f"kv_connector_extra_config: unknown key '{key}'; known keys: {', '.join(sorted(_CHECKS))}"
            )
        accepts, wanted = _CHECKS[key]
        if not accepts(value):
            raise RefusedError(f"kv_connector_extra_config: '{key}' is {value!r}, must be {wanted}")
    if "data_plane" not in extra:
        raise RefusedError(
            "kv_connector_extra_config: 'data_plane' is required, as 'unix:///path' or 'tcp://host:port'"
        )
    return ConnectorConfig(**dict(extra))
