"""Who signs requests to Amazon's clouds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.config.aws_options import AwsOptions

if TYPE_CHECKING:
    from engines.aws.sigv4 import SigV4Signer


def signer_for(options: AwsOptions, url: str, service: str) -> SigV4Signer:
    """Signs for `service` at `url`.

    Raises:
        ImportError: the extra is not installed.
        ValueError: neither the options nor the URL tell the region.
    """
    try:
        from engines.aws.sigv4 import SigV4Signer, fixed_keys, keys_of_machine
    except ImportError as error:
        raise ImportError('requests to AWS are signed by botocore: pip install "headrace[aws]"') from error
    region = options.region_for(url)
    if region is None:
        raise ValueError(f"{url!r} does not tell its AWS region; set `engine.aws.region`")
    if options.access_key_id is not None and options.secret_access_key is not None:
        token = options.session_token.get_secret_value() if options.session_token is not None else None
        chain = fixed_keys(options.access_key_id, options.secret_access_key.get_secret_value(), token)
    else:
        chain = keys_of_machine(options.profile)
    return SigV4Signer(chain, service, region)
