"""How the gateway is let in at Amazon's clouds."""

from __future__ import annotations

import re
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field, SecretStr

from gateway.config.base import Section

_REGION = r"[a-z]{2,3}(?:-[a-z]+)+-[0-9]{1,2}"
_REGION_IN_HOST = re.compile(rf"(?:^|\.)({_REGION})\.(?:[a-z]+\.)?(?:amazonaws\.|api\.aws)")


class AwsOptions(Section):
    """bedrock, sagemaker: whose keys sign the requests. Without any here they come from botocore's chain: environment,
    profile, web identity, container or instance role."""

    region: Annotated[str, Field(pattern=rf"^{_REGION}$")] | None = None
    """Region that requests are signed for; none: the one in the URL's host."""
    profile: str | None = None
    """Profile of `~/.aws/config`; none: the default one."""
    access_key_id: str | None = None
    """Access key; `secret_access_key` belongs to it."""
    secret_access_key: SecretStr | None = None
    """Secret of the access key."""
    session_token: SecretStr | None = None
    """Token of temporary keys. They are not renewed: a role or a profile is better."""

    def region_for(self, url: str) -> str | None:
        """The region to sign a request to `url` for; None if nothing tells."""
        found = _REGION_IN_HOST.search(urlsplit(url).hostname or "")
        return self.region or (found[1] if found else None)
