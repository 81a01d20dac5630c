"""The server's settings: `configs/server.yaml`, changed by `--conf KEY VALUE`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from medsam2_atlas.base.configuration import problems_of
from medsam2_atlas.base.errors import InputError
from medsam2_atlas.base.resource import resource
from medsam2_atlas.base.root_path import parse_root_path
from medsam2_atlas.base.urls import is_url
from medsam2_atlas.imaging.decoding import DecodingLimits
from medsam2_atlas.imaging.hounsfield import HuRule
from server.connection_limits import ConnectionLimits
from server.root_path import FIRST_SEGMENTS

_LISTS = ("origins", "hosts", "roots", "frame_ancestors")
_ORIGIN = re.compile(r"https?://[A-Za-z0-9.\-\[\]:]+")


class ServerConfig(BaseModel):
    """The settings of the server."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    queue: int = Field(16, ge=1, le=1000, description="max number of waiting jobs")
    queue_per_person: int = Field(4, ge=1, le=1000, description="max number of waiting jobs of each person")
    sessions_per_person: int = Field(10, ge=1, le=1000, description="max number of sessions of each person")
    upload_mb: int = Field(2000, ge=1, description="max megabytes of an uploaded image")
    viewer_mb: int = Field(1000, ge=1, description="max megabytes of decoded CTs of a folder that are kept for viewers")
    label_mb: int = Field(500, ge=1, description="max megabytes of an uploaded label map")
    drafts_mb: int = Field(200, ge=1, description="max megabytes of all drafts of each person")
    pictures_mb: int = Field(200, ge=1, description="max megabytes of all pictures of the worklist and of comparisons")
    learn_ahead: int = Field(10, ge=1, le=10_000, description="series of a PACS that learning keeps measured ahead of need")
    learn_mb: int = Field(20_000, ge=1, description="max megabytes of series that learning has fetched and nobody signed off")
    reader_processes: int = Field(2, ge=1, le=32, description="reader processes; as many files are decoded at once")
    reader_voxels_million: int = Field(600, ge=1, description="max voxels of an image, in millions")
    reader_memory_mb: int = Field(8000, ge=1000, description="max address space of a reader process, in megabytes")
    reader_seconds: float = Field(120.0, gt=0, description="max seconds for decoding one file")
    connections: int = Field(400, ge=1, description="max number of connections, and at most half of the process' open files")
    connections_per_address: int = Field(100, ge=1, description="max number of half-open connections of each address")
    head_seconds: float = Field(15.0, gt=0, description="max seconds for the head of a request")
    body_seconds: float = Field(30.0, gt=0, description="max seconds without a byte of a request's body")
    read_seconds: float = Field(60.0, gt=0, description="max seconds in which a client reads no byte of its answer")
    requests_per_person: int = Field(150, ge=1, description="max number of requests of each person at the same time")
    roots: tuple[str, ...] = Field((), description="folders outside the studies folder to which links in it may point")
    hu: str = Field("check", description="conversion of CT values to HU: check, auto, as-is, or a number to add")
    tokens: str = Field("", description="token file (YAML); see docs/access.md")
    oidc_issuer: str = Field("", description="URL of an OpenID Connect issuer, such as https://host/realms/name of Keycloak")
    oidc_audience: str = Field("medsam2-atlas", description="audience that the issuer's tokens must name")
    oidc_roles: str = Field("realm_access.roles", description="claim that contains the roles, as a path with dots")
    oidc_name: str = Field("preferred_username", description="claim that contains the person's name")
    oidc_stale_minutes: int = Field(60, ge=0, le=1440, description="minutes that old keys stay valid if the issuer is down")
    login_hours: float = Field(24.0, gt=0, le=720, description="max duration of a browser's login, in hours")
    login_idle_hours: float = Field(8.0, gt=0, le=720, description="max hours of a browser's login without a request")
    origins: tuple[str, ...] = Field((), description="other origins whose pages may call the server")
    frame_ancestors: tuple[str, ...] = Field((), description="origins whose pages may show the server's pages in a frame")
    log_names: bool = Field(False, description="whether logs contain study names; otherwise they contain keyed hashes")
    hosts: tuple[str, ...] = Field((), description="additional host names of a server without logins")
    audit_mb: int = Field(50, ge=1, le=100_000, description="megabytes after which the audit log begins a new file")
    audit_keep_days: int = Field(0, ge=0, description="days to keep closed files of the audit log; 0 keeps them forever")
    files_for_group: bool = Field(False, description="whether the studies folder's group can read and write files, too")
    review: bool = Field(False, description="whether models learn only from final label maps that a reviewer has accepted")
    gone_seconds: float = Field(
        10.0, ge=0, le=86_400, description="seconds after which a viewer's job that nobody follows is cancelled; 0 never does"
    )
    root_path: str = Field("", description="path below which a proxy serves the app, such as /medsam2")

    @field_validator("roots")
    @classmethod
    def _absolute(cls, roots: tuple[str, ...]) -> tuple[str, ...]:
        for root in roots:
            if not Path(root).is_absolute():
                raise ValueError(f"{root!r} is not an absolute path")
        return roots

    @field_validator("frame_ancestors")
    @classmethod
    def _are_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            if not _ORIGIN.fullmatch(origin):
                raise ValueError(f"{origin!r} is not an origin such as https://portal.example.org")
        return origins

    @field_validator("hu", mode="before")
    @classmethod
    def _rule(cls, rule: object) -> str:
        try:
            return str(HuRule.parse(str(rule)))
        except InputError as error:
            raise ValueError(str(error)) from error

    @field_validator("oidc_issuer")
    @classmethod
    def _url(cls, issuer: str) -> str:
        if issuer and not is_url(issuer):
            raise ValueError(f"{issuer!r} is not a URL such as https://host/realms/name")
        return issuer

    @field_validator("root_path")
    @classmethod
    def _root_path(cls, text: str) -> str:
        try:
            path = parse_root_path(text)
        except InputError as error:
            raise ValueError(str(error)) from error
        if path and path.split("/")[1] in FIRST_SEGMENTS:
            raise ValueError(f"{path} begins like one of the server's own paths; choose another, such as /medsam2")
        return path

    @model_validator(mode="after")
    def _reviewers(self) -> ServerConfig:
        if self.review and not self.login_required:
            raise ValueError("review needs users with roles: set tokens or oidc_issuer, too")
        return self

    @property
    def decoding(self) -> DecodingLimits:
        """The limits for decoding files of unknown origin."""
        return DecodingLimits(
            processes=self.reader_processes,
            voxels_million=self.reader_voxels_million,
            memory_mb=self.reader_memory_mb,
            seconds=self.reader_seconds,
        )

    @property
    def connection_limits(self) -> ConnectionLimits:
        """The limits of connections."""
        return ConnectionLimits(
            total=self.connections,
            per_address=self.connections_per_address,
            head_seconds=self.head_seconds,
            body_seconds=self.body_seconds,
            read_seconds=self.read_seconds,
        )

    @property
    def login_required(self) -> bool:
        """Whether users have to log in."""
        return bool(self.tokens or self.oidc_issuer)


def server_config(conf: Mapping[str, str]) -> ServerConfig:
    """Returns the settings of `configs/server.yaml`, changed by `conf`.

    Args:
        conf: `--conf` settings. Only those that begin with `server_` are used; items of lists are separated by commas.

    Raises:
        InputError: a setting is unknown or not valid.
    """
    file = resource("configs/server.yaml")
    given = {key.removeprefix("server_"): value for key, value in conf.items() if key.startswith("server_")}
    lists = {key: tuple(v.strip() for v in given[key].split(",") if v.strip()) for key in _LISTS if key in given}
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
        return ServerConfig.model_validate({**content, **given, **lists})
    except ValidationError as error:
        raise InputError("server settings", f"are not valid: {problems_of(error)}.", f"See {file}.") from error
    except yaml.YAMLError as error:
        raise InputError(file, f"cannot be read: {' '.join(str(error).split())}.", "Correct the file.") from error
