"""Settings: read once from TALKMETER_* variables, checked once, never changed. Imports nothing of the project."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal, get_type_hints

import msgspec
from msgspec import Meta

PREFIX = "TALKMETER_"
DAY_MS = 86_400_000

Port = Annotated[int, Meta(ge=0, le=65535)]
Workers = Annotated[int, Meta(ge=1, le=64)]
Millis = Annotated[int, Meta(ge=1, le=86_400_000)]
Thresholds = Annotated[str, Meta(pattern=r"^([1-9]\d{0,7}(,[1-9]\d{0,7}){0,3})?$")]
Bytes = Annotated[int, Meta(ge=1024, le=1 << 30)]
Count = Annotated[int, Meta(ge=1, le=10_000_000)]
Burst = Annotated[int, Meta(ge=10, le=1_000_000)]  # above the cost of the dearest operation
RateText = Annotated[str, Meta(pattern=r"^(off|[1-9][0-9]{0,6}/[1-9][0-9]{0,4}s)$")]  # 30/60s: 30 in 60 seconds


class SettingsError(Exception):
    """A setting is missing, misspelt or out of range; the message names it and says what it should be."""


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything an operator can set. Each field `x` is the variable `TALKMETER_X`; docs/settings.md lists them."""

    # Where it listens and keeps its data.
    host: str = "127.0.0.1"  # 0.0.0.0 or :: listens on all addresses
    port: Port = 8080  # 0 takes a free one
    data_dir: str = "data"  # folder of the signing key and of the embedded engines
    workers: Workers = 1  # hub processes behind the port; above 1 the jobs have a process of their own
    tls_certificate: str = ""  # path of the certificate chain (PEM); with it sockets are wss://
    tls_key: str = ""  # path of its key (PEM)
    trusted_proxies: str = ""  # comma-separated addresses whose X-Forwarded-For counts
    allowed_origins: str = ""  # comma-separated origins besides the server's own; "*" allows all

    # Engines: with a URL nothing is embedded.
    database_url: str = ""  # PostgreSQL 15 or newer: postgresql://user:password@host/name
    migrate_url: str = ""  # owner's URL when the application's user may not migrate
    redis_url: str = ""  # Redis 7 or Valkey, one, Sentinel or Cluster; docs/operations.md has the forms
    redis_prefix: Annotated[str, Meta(pattern="^[a-z0-9_-]{1,32}$")] = "tm"  # of all keys and pub/sub channels
    postgres_bin: str = ""  # folder with initdb and postgres; default: the embedded wheel's
    valkey_bin: str = ""  # path of valkey-server or redis-server; default: the embedded wheel's
    database_pool_size: Annotated[int, Meta(ge=2, le=500)] = 16  # connections of one process, at most

    # Development: opens token minting, free coins and the demo's sign-in; refused off loopback unless forced.
    dev: bool = False  # as --dev
    dev_force: bool = False  # allows it off loopback
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["console", "json"] = "console"  # json for collectors

    # Identity.
    tenant: Annotated[str, Meta(min_length=1, max_length=64)] = "main"  # of tokens that name none
    jwt_secret: str = ""  # id:secret,id:secret, the first signs; default: a random one in the data folder
    jwt_issuer: str = "talkmeter"  # the claim iss of the backend's tokens
    jwt_audience: str = "talkmeter"  # their claim aud
    firebase_project_id: str = ""  # whose ID tokens are taken too
    firebase_credentials: str = ""  # path of a service account file; with it pushes are sent
    firebase_clock_skew_s: Annotated[int, Meta(ge=0, le=60)] = 5  # allowed in ID tokens
    fcm_url: str = ""  # messaging endpoint; default: Google's

    # Sockets.
    sign_in_timeout_ms: Millis = 10_000  # from the upgrade to a sign-in
    heartbeat_ms: Millis = 25_000  # silence of a client before it is pinged
    frame_bytes_max: Bytes = 64 * 1024  # of a message from a client, whole and inflated
    outbox_bytes_max: Bytes = 1024 * 1024  # unsent bytes of one socket, above which it is closed as slow
    unauthenticated_max: Count = 1_000  # sockets of one process that have not signed in
    unauthenticated_per_ip_max: Count = 200  # the same of one address; and its connections in TLS or HTTP
    connections_max: Count = 18_000  # of one process; below the usual limit of 20,000 open files
    connections_per_ip_max: Count = 18_000  # of one address (an IPv6 /64); carriers put a town behind one
    accepts_per_ip_per_s: Count = 500  # new sockets of one address, sustained
    accepts_per_ip_burst: Count = 2_000
    request_timeout_ms: Millis = 10_000  # from a connection to its whole request
    tls_handshake_timeout_ms: Millis = 10_000  # from a connection to the end of its handshake
    compression: bool = False  # take offers of permessage-deflate
    drain_ms: Millis = 5_000  # over which a node that stops closes its sockets

    # Rates: 30/60s is 30 at once and 30 more in every 60 seconds; off bounds nothing (ADR 62).
    requests_per_s: Count = 50  # per connection, sustained; an operation costs 1 to 5
    requests_burst: Burst = 200
    user_requests_per_s: Count = 100  # per user, over all connections to one node
    user_requests_burst: Burst = 400
    rate_call_invite: RateText = "30/60s"  # per user, over all nodes; and 60 rings a minute by the database
    rate_hosts_update: RateText = "30/60s"  # per user, over all nodes
    rate_profile_update: RateText = "20/60s"  # per user, over all nodes
    rate_device_register: RateText = "20/60s"  # per user, over all nodes
    rate_gift_send: RateText = "120/60s"  # per user and node
    rate_chat_send: RateText = "300/60s"  # per user and node
    rate_channel_publish: RateText = "600/60s"  # per user and node
    rate_sign_ins: RateText = "60/60s"  # per user and node, over all devices
    rate_failed_sign_ins: RateText = "600/60s"  # per address and node

    # Calls and money.
    ring_timeout_ms: Millis = 30_000  # from the first receipt of a ring
    ring_cap_ms: Millis = 60_000  # from the invite to the end of ringing, whatever happens
    connect_timeout_ms: Millis = 20_000  # from the answer until both sides have media
    proof_grace_ms: Millis = 15_000  # silence of a side after which the call ends at its last proof of life
    low_balance_ms: Thresholds = "60000"  # up to 4, comma-separated and descending: warn when so much talk is left
    commission_bp: Annotated[int, Meta(ge=0, le=10_000)] = 3_000  # the platform's part of every price; 100 are 1 %

    # Media.
    media_provider: Literal["webrtc", "agora"] = "webrtc"
    agora_app_id: str = ""
    agora_certificate: str = ""
    agora_token_version: Literal["007", "006"] = "007"  # 006 for old SDKs
    stun_urls: str = ""  # comma-separated, as stun:host:port
    turn_urls: str = ""  # comma-separated, as turn:host:port?transport=udp
    turn_secret: str = ""  # shared with the TURN servers (coturn: use-auth-secret)

    @property
    def loopback(self) -> bool:
        """Whether the listening address can only be reached from this machine."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def low_balance_thresholds_ms(self) -> tuple[int, ...]:
        """`low_balance_ms` as numbers."""
        return tuple(map(int, self.low_balance_ms.split(","))) if self.low_balance_ms else ()

    @property
    def data_path(self) -> Path:
        return Path(self.data_dir).expanduser().resolve()


def load(environ: Mapping[str, str], **overrides: object) -> Settings:
    """Read the TALKMETER_* variables of `environ`; `overrides` that are not None win.

    Raises:
        SettingsError: an unknown variable, a value of the wrong type or range, or a combination that is refused.
    """
    names = set(Settings.__struct_fields__)
    values: dict[str, object] = {}
    for variable, text in environ.items():
        if not variable.startswith(PREFIX):
            continue
        name = variable[len(PREFIX) :].lower()
        if name not in names:
            raise SettingsError(f"{variable} is not a setting; see docs/settings.md for those that are")
        values[name] = text
    values |= {name: value for name, value in overrides.items() if value is not None}
    for name, value in values.items():
        _check_one(name, value)
    settings = msgspec.convert(values, Settings, strict=False)
    _check_together(settings)
    return settings


def to_environ(settings: Settings) -> dict[str, str]:
    """Return the variables that make `load` read these settings again: how a parent tells its workers."""
    return {
        PREFIX + name.upper(): str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in msgspec.structs.asdict(settings).items()
    }


def split(text: str) -> tuple[str, ...]:
    """Return the parts of a comma-separated setting."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _check_one(name: str, value: object) -> None:
    hints = get_type_hints(Settings, include_extras=True)
    try:
        msgspec.convert(value, hints[name], strict=False)
    except msgspec.ValidationError as exc:
        raise SettingsError(f"{PREFIX}{name.upper()}={value!r} is wrong: {str(exc).lower()}") from None


def _check_together(settings: Settings) -> None:
    if settings.dev and not settings.loopback and not settings.dev_force:
        raise SettingsError(
            f"--dev opens free coins and token minting, so it is refused on {settings.host}: "
            "listen on 127.0.0.1, or set TALKMETER_DEV_FORCE=true if you know that nobody else reaches this port"
        )
    if bool(settings.database_url) != bool(settings.redis_url) and settings.workers > 1:
        raise SettingsError("with several workers give both TALKMETER_DATABASE_URL and TALKMETER_REDIS_URL, or neither")
    if bool(settings.tls_certificate) != bool(settings.tls_key):
        raise SettingsError("TALKMETER_TLS_CERTIFICATE and TALKMETER_TLS_KEY are given together or not at all")
    thresholds_ms = settings.low_balance_thresholds_ms
    if any(low >= high for high, low in pairwise((DAY_MS + 1, *thresholds_ms))):
        raise SettingsError(f"TALKMETER_LOW_BALANCE_MS={settings.low_balance_ms!r} must descend from a day at most")
    if settings.media_provider == "agora" and not (settings.agora_app_id and settings.agora_certificate):
        raise SettingsError(
            "TALKMETER_MEDIA_PROVIDER=agora needs TALKMETER_AGORA_APP_ID and TALKMETER_AGORA_CERTIFICATE"
        )
