"""The configuration: one YAML file, one tree of strict models. Loading and error messages: `config_load`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, SecretStr, model_validator

from gateway.config.base import BaseUrl, Instant, Name, Port, Positive, Section, Url
from gateway.config.cache_options import Cache, DeploymentCache
from gateway.config.content_options import ContentLog
from gateway.config.database_options import Admin, Database
from gateway.config.engine_options import EngineOptions
from gateway.config.failure_options import Fallbacks, Hedge
from gateway.config.jwt_options import JwtIssuer
from gateway.config.limit_options import LimitOptions, LimitRule, TenantOptions
from gateway.config.pool_options import DnsOptions, KubernetesOptions, ProbeOptions, ScaleToZero, ScrapeOptions, WarmUp
from gateway.config.price_options import PriceOptions
from gateway.config.prompt_options import PromptOptions
from gateway.config.queue_options import QueueOptions
from gateway.config.redis_options import Redis
from gateway.config.residency_options import Residency, Site
from gateway.config.sites import likely_site
from gateway.config.spill_options import OfferOptions, SpillOptions


class Tls(Section):
    """A certificate and its key."""

    cert: str
    """Path of the certificate chain, PEM."""
    key: str
    """Path of the private key, PEM."""


class Server(Section):
    """Where the gateway listens, and what it takes from a client."""

    host: str = "127.0.0.1"
    """Address to bind. With no keys configured only a loopback address is allowed."""
    port: Port = 8080
    """TCP port; 0 takes a free one."""
    workers: Annotated[int, Field(ge=0, le=256)] = 0
    """Worker processes on the one listening socket; 0: one per core."""
    tls: Tls | None = None
    """Serve HTTPS with this certificate."""
    max_body_bytes: Annotated[int, Field(ge=1024)] = 32 * 1024 * 1024
    """Largest request body; a larger one gets 413."""
    max_header_bytes: Annotated[int, Field(ge=1024, le=1024 * 1024)] = 64 * 1024
    """Largest request line and headers together; larger ones get 431."""
    header_timeout_s: Positive = 10.0
    """From the first byte of a request to the end of its headers."""
    body_timeout_s: Positive = 60.0
    """Longest pause while a request body arrives."""
    idle_timeout_s: Positive = 75.0
    """How long a connection may stay open between requests."""
    write_timeout_s: Positive = 60.0
    """How long a client may leave its answer unread before it is cut off."""
    sse_keepalive_s: Positive = 15.0
    """A comment line is sent on a stream that was silent for this long."""
    drain_s: Annotated[float, Field(ge=0)] = 30.0
    """After SIGTERM: how long answers in flight may take to finish."""
    cors_origins: list[str] = []
    """Browser origins that may call the API; `*` for all."""
    trusted_proxies: list[str] = []
    """Networks in CIDR notation of proxies whose `x-forwarded-for` is believed; from others it is ignored. Needed for
    `networks` of keys where a proxy stands before the gateway."""
    watch_config: bool = True
    """Whether a change of this file takes effect by itself; otherwise SIGHUP makes it."""


class Key(Section):
    """An API key. Exactly one of `hash` and `key` is set."""

    name: Name
    """Shown in logs in place of the key."""
    hash: Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")] | None = None
    """What `headrace keys hash` prints."""
    key: SecretStr | None = None
    """The key itself, for secrets from the environment: `${TEAM_KEY}`."""
    tenant: Name = "default"
    """Who is charged."""
    team: Name | None = None
    """Which of the tenant's teams the key belongs to; none: to none."""
    deployments: list[str] = ["*"]
    """Deployments this key may call; `*` for all."""
    networks: list[str] = []
    """Networks in CIDR notation that the key may be used from; empty: any."""
    expires: Instant | None = None
    """When the key stops working; none: never."""
    limits: LimitOptions = LimitOptions()
    """What this key may use."""
    max_parallel: Annotated[int, Field(ge=1)] | None = None
    """Another name for `limits.parallel`; if both are set, the lower one holds."""
    sensitivity: Name | None = None
    """Sensitivity class of this key's requests, one of `residency.classes`; none: `residency.default`."""
    may_name_flow: bool = False
    """Whether the key is that of a trusted proxy, which says by `x-gateway-inference-fairness-id` whose request it
    passes on: in the queue these flows take turns within the tenant's share. From other keys the header is ignored."""
    admin: bool = False
    """Whether this key may see how the gateway itself is doing: `/admin/…`."""


class Auth(Section):
    """Who may call."""

    salt: SecretStr = SecretStr("")
    """Mixed into every key hash. Changing it invalidates all hashes."""
    keys: list[Key] = []
    """Keys that may call the API. With none, and no `jwt`, everybody on this machine may."""
    jwt: list[JwtIssuer] = []
    """Issuers whose tokens are taken in place of keys, such as OpenID Connect providers."""


class Pool(Section):
    """The replicas of one variant at one site. They are named by one of `urls`, `dns`, `file` and `kubernetes`; without
    any of these the gateway starts the engines itself."""

    engine: EngineOptions = EngineOptions()
    """What the replicas are."""
    urls: list[BaseUrl] = []
    """Base URLs of running replicas; a `/v1` at the end is taken off."""
    dns: DnsOptions | None = None
    """Replicas are the addresses of a name."""
    file: str | None = None
    """Replicas are those in a YAML or JSON file: URLs, or groups as in Prometheus' `file_sd`. Read anew on change."""
    kubernetes: KubernetesOptions | None = None
    """Replicas are the endpoints of a Kubernetes service."""
    replicas: Annotated[int, Field(ge=1, le=64)] = 1
    """How many engines to start, when `urls` is empty."""
    site: Site = "on-premise"
    """Where the replicas stand; `residency` says which requests may go there. If this is not set, a pool of a cloud's
    kind, or with an address that is not plainly private, counts as cloud."""
    labels: dict[Name, str] = {}
    """More of what they are, such as `region: eu`; `residency.labels` asks for it."""
    max_in_flight: Annotated[int, Field(ge=1)] | None = None
    """Requests in flight at one replica, per gateway worker; none: no limit."""
    warm_up: WarmUp | None = None
    """A request that each replica answers before it gets traffic; none: it gets traffic at once."""
    slow_start_s: Annotated[float, Field(ge=0)] = 0.0
    """How long a replica that joins others takes to reach its full share of the traffic."""
    probe: ProbeOptions = ProbeOptions()
    """Asking replicas for their health where traffic says nothing."""
    scrape: ScrapeOptions = ScrapeOptions()
    """Reading the replicas' own metrics."""
    scale_to_zero: ScaleToZero | None = None
    """Hold requests and wake the pool when no replica answers; none: such requests get 503 at once."""

    @model_validator(mode="before")
    @classmethod
    def _guess_site(cls, given: object) -> object:
        if isinstance(given, Mapping) and "site" not in given:
            return {**given, "site": likely_site(given)}
        return given

    @property
    def discovered(self) -> bool:
        """Whether the replicas are found while the gateway runs."""
        return self.dns is not None or self.file is not None or self.kubernetes is not None

    @property
    def source(self) -> str:
        """Where the replicas are found while the gateway runs, for people; empty: they are not."""
        asked = self.dns or self.kubernetes
        if asked is not None:
            return asked.source
        return f"file {self.file}" if self.file is not None else ""

    @property
    def started_here(self) -> bool:
        """Whether the gateway starts the engines itself."""
        return not self.urls and not self.discovered


class Variant(PromptOptions, OfferOptions):
    """One build of a deployment's model."""

    pools: Annotated[list[str], Field(min_length=1)]
    """Names of pools that serve this variant; their replicas are chosen among together."""
    model: str | None = None
    """The model name that the engines know; none: the deployment's name."""
    weight: Annotated[float, Field(ge=0)] = 1.0
    """Share of the deployment's traffic, relative to its other variants."""


class TimeoutOptions(Section):
    """Each counts from the moment its phase begins."""

    connect_s: Positive = 5.0
    """Until the connection to the engine stands."""
    ttft_s: Positive | None = None
    """From sending the request to the first byte of the answer; an answer that does not stream comes whole."""
    idle_s: Positive | None = 300.0
    """Between two pieces of an answer."""
    total_s: Positive | None = 600.0
    """For the whole answer, retries included."""


class Deployment(Section):
    """A model name that callers ask for."""

    variants: Annotated[dict[Name, Variant], Field(min_length=1)]
    """Builds of the model, by a name of your choice; traffic is shared between them by weight."""
    aliases: list[Name] = []
    """Other names for the same deployment."""
    policy: Literal[
        "marginal_latency",
        "least_requests",
        "power_of_two",
        "session",
        "round_robin",
        "random",
        "cache_aware",
        "kv_cost",
        "lmetric",
        "weighted_scorers",
    ] = "marginal_latency"
    """How a replica is chosen."""
    timeouts: TimeoutOptions = TimeoutOptions()
    """How long to wait for the engines."""
    attempts: Annotated[int, Field(ge=1, le=10)] = 3
    """Replicas tried at most for one request, before its first byte, those of its fallbacks included."""
    retry_share: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Retries at most, as a share of the requests, per gateway worker; a few are always allowed. Past it, the first
    failure is the answer."""
    fallbacks: Fallbacks = Fallbacks()
    """Deployments that answer in place of this one."""
    hedge: Hedge | None = None
    """A second attempt while the first is slow; none: off."""
    limits: LimitOptions = LimitOptions()
    """What all callers together may use of it."""
    queue: QueueOptions = QueueOptions()
    """What becomes of requests for which no replica has a place."""
    spill: SpillOptions | None = None
    """When requests leave for a cloud or a smaller variant; none: clouds are replicas like any other."""
    cache: DeploymentCache = DeploymentCache()
    """Which of its answers are kept to be given again."""


class AccessLog(Section):
    """One line for each request."""

    format: Literal["json", "pretty", "off"] = "json"
    """json: one object a line; pretty: for terminals."""
    path: str = "-"
    """A file, or `-` for standard output."""
    prefix_secret: SecretStr | None = None
    """Adds `prefix` to the lines, hashes made with this secret: from them `headrace simulate` sees which prompts begin
    alike. Without it, no such field."""


class Tracing(Section):
    """OpenTelemetry spans, sent by OTLP over HTTP."""

    otlp_endpoint: Url | None = None
    """OTLP/HTTP collector, such as http://127.0.0.1:4318; none: no spans, `traceparent` is passed on."""
    otlp_headers: dict[str, SecretStr] = {}
    """Headers for the collector."""
    sample: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Share of requests traced when the caller did not decide."""
    site: Site = "on-premise"
    """Where the collector stands. Requests that may not go there send it no spans; see `residency`."""
    service_name: str = "headrace"
    """`service.name` of the spans."""


class Telemetry(Section):
    """What the gateway tells of its work."""

    access_log: AccessLog = AccessLog()
    """One line for each request."""
    tracing: Tracing = Tracing()
    """OpenTelemetry spans."""
    max_tenants: Annotated[int, Field(ge=1, le=10_000)] = 100
    """Tenants with metric series of their own; the rest are summed as `other`."""


class Routing(Section):
    """What choosing a replica goes by, over all deployments."""

    prefix_index_bytes: Annotated[int, Field(ge=1 << 20)] = 64 * 1024 * 1024
    """Memory for what the replicas hold in their KV caches, per worker. Past it the oldest guesses are forgotten."""


class Config(Section):
    """The whole file."""

    server: Server = Server()
    """Where the gateway listens, and what it takes from a client."""
    auth: Auth = Auth()
    """Who may call."""
    tenants: dict[Name, TenantOptions] = {}
    """Organisations, by the name that keys give as `tenant`."""
    limits: list[LimitRule] = []
    """Limits on any combination of tenants, teams, keys and deployments."""
    pools: dict[Name, Pool] = {}
    """Replicas, by a name of your choice."""
    deployments: dict[Name, Deployment] = {}
    """Model names that callers may ask for."""
    telemetry: Telemetry = Telemetry()
    """What the gateway tells of its work."""
    cache: Cache = Cache()
    """Answers kept for the same request asked again."""
    prices: dict[Name, PriceOptions] = {}
    """What models cost, by the name that the engines know them by, where the release's table is not right for you."""
    residency: Residency = Residency()
    """Which requests may go where."""
    routing: Routing = Routing()
    """What choosing a replica goes by."""
    redis: Redis | None = None
    """Where limits are counted, and gateways tell each other what they have in flight; none: each is by itself."""
    database: Database | None = None
    """What is kept for good: keys, usage, configurations; none: nothing is."""
    content_log: ContentLog | None = None
    """Prompts and answers of some calls, kept for later reading; none: nothing of them is kept."""
    admin: Admin = Admin()
    """The admin API."""
