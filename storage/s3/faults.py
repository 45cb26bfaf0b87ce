"""What S3 and botocore say, as our faults.

Knows: S3's error codes and botocore's exceptions. Must not know: what was asked. Nothing that is said here holds a secret:
of an error only S3's code and message are passed on, and a signed URL never stands in a message.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from protocol.errors import Broken, Denied, Fault, Invalid, NotFound, TimedOut, Unavailable
from storage.route import insecure

REDIRECTS: Final = frozenset(
    {
        *("301", "307", "PermanentRedirect", "TemporaryRedirect", "AuthorizationHeaderMalformed"),
        "IllegalLocationConstraintException",  # of regions that an account has to opt in to
    }
)
REGION: Final = "Region"
"""Kind of a fault that says that a bucket is in another region than it was asked for in."""

NO_ACCOUNT: Final = frozenset(
    {
        "InvalidAccessKeyId",
        "InvalidToken",
        "InvalidSecurity",
        "XAdminUserNotFound",  # versitygw, with status 404
    }
)
EXPIRED: Final = frozenset({"ExpiredToken", "TokenRefreshRequired"})
ACCOUNT: Final = "Account"
"""Kind of a fault that says that S3 does not know the account, or not any more: another one may be taken."""
DIGEST: Final = "Digest"
"""Kind of a fault that says that other bytes came to S3 than were sent."""
SUMS: Final = "Sums"
"""Kind of a fault that says that a store does not take S3's checksums."""
OVER: Final = NO_ACCOUNT | EXPIRED
ABOUT_ALL: Final = NO_ACCOUNT | EXPIRED | {"NoSuchBucket", "SignatureDoesNotMatch"}
_DENIED: Final = frozenset({"AccessDenied", "Forbidden", "403", "401", "AllAccessDisabled", "AccountProblem"})
_BUSY: Final = frozenset(
    {
        *("SlowDown", "ServiceUnavailable", "InternalError", "RequestTimeout", "OperationAborted", "Busy"),
        "ConditionalRequestConflict",  # somebody else's request came between a condition and what it is for
    }
)
ACCOUNT_HINT: Final = (
    "The node (or you) needs an account: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile."
)


def fault_of(code: str, message: str, status: int, what: str, endpoint: str, *, signed: bool) -> Fault:
    """What S3's error about `what` means for us. `code` may be a status where S3 sends no body."""
    said = f"{what}: {message[:300] or code} ({code}, at {endpoint})"
    if code == "NoSuchBucket":
        hint = "Check Bucket and Endpoint; a bucket is not made by a job."
        return NotFound(f"{what}: there is no such bucket at {endpoint}", hint=hint, kind="Bucket")
    if code in ("NoSuchKey", "404", "NotFound"):
        hint = "Keys are exact, upper and lower case too."
        return NotFound(f"{what}: there is no such object at {endpoint}", hint=hint, kind="Object")
    if code in ("NoSuchVersion", "NoSuchUpload"):
        return NotFound(said)
    if code in NO_ACCOUNT:
        return Denied(
            f"{what}: {endpoint} does not know the account ({code})", hint=ACCOUNT_HINT, kind=ACCOUNT
        )
    if code in EXPIRED:
        hint = "Renew it where the AWS configuration has it: a session token, or what its credential_process prints."
        return Denied(
            f"{what}: the account's session is over ({code}, at {endpoint})", hint=hint, kind=ACCOUNT
        )
    if code == "SignatureDoesNotMatch":
        return Denied(
            f"{what}: {endpoint} refuses the signature ({code})", hint="Check AWS_SECRET_ACCESS_KEY."
        )
    if code == "RequestTimeTooSkewed":
        return Denied(said, hint="Set this machine's clock.")
    if code == "InvalidObjectState":
        hint = "It is in an archive (Glacier): restore it first, as with aws s3api restore-object."
        return Invalid(said, hint=hint, kind="Archived")
    if code in _DENIED or status in (401, 403):
        hint = "Let the account read and write there." if signed else ACCOUNT_HINT
        return Denied(f"{what}: {endpoint} denies access ({code}{'' if signed else ', unsigned'})", hint=hint)
    if code in ("PreconditionFailed", "412"):
        return Broken(f"{what} was changed meanwhile", kind="Changed")
    if status in (400, 501) and "x-amz-checksum" in message:
        return Invalid(said, kind=SUMS)
    if code == "NotImplemented" or status == 501:
        return Invalid(said, kind="NotImplemented")
    if code in REDIRECTS or status in (301, 307):
        return Invalid(said, hint="The bucket is in another region: name it as Region.", kind=REGION)
    if code in _BUSY or status >= 500 or status == 429:
        return Unavailable(said)
    if code in ("BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch"):
        return Broken(said, kind=DIGEST)
    return Invalid(said)


def not_s3(what: str, endpoint: str) -> Invalid:
    """What a bare 404 about a bucket means: S3 says which bucket it has not."""
    said = f"{what}: {endpoint} does not answer as S3 does (status 404)"
    return Invalid(said, hint="Is Endpoint an S3 server's address, without a path?")


@contextmanager
def faults(what: str, endpoint: str, *, signed: bool) -> Iterator[None]:
    """Turn botocore's errors about `what` into our faults."""
    try:
        yield
    except Fault:
        raise
    except Exception as error:
        fault = _mapped(error, what, endpoint, signed)
        if fault is None:
            raise
        raise fault from error


def _mapped(error: Exception, what: str, endpoint: str, signed: bool) -> Fault | None:
    from botocore import exceptions as boto
    from botocore.parsers import ResponseParserError

    if isinstance(error, boto.ClientError):
        message = error.response.get("Error", {}).get("Message", "")
        return fault_of(code_of(error), message, status_of(error), what, endpoint, signed=signed)
    if isinstance(error, boto.ConnectTimeoutError | boto.EndpointConnectionError | boto.ProxyConnectionError):
        return Unavailable(
            f"{what}: {endpoint} cannot be reached", hint="Is the server running, the endpoint right?"
        )
    if isinstance(error, boto.ReadTimeoutError):
        return TimedOut(f"{what}: {endpoint} does not answer", hint="Try again later.")
    if isinstance(error, boto.SSLError):
        cause = error.kwargs.get("error")
        inner = getattr(cause, "certificate_error", None) or getattr(cause, "os_error", cause)
        said, hint = insecure(inner)
        return Unavailable(f"{what}: {endpoint} {said}", hint=hint)
    told = error.kwargs.get("error") if isinstance(error, boto.HTTPClientError) else None
    if isinstance(told, Fault):
        # What our resolver says of an address comes back as an error of theirs.
        return told
    if isinstance(error, boto.HTTPClientError | boto.ConnectionError):
        return Unavailable(f"{what}: the connection to {endpoint} broke")
    if isinstance(error, boto.ParamValidationError | boto.InvalidRegionError):
        return Invalid(f"{what}: {' '.join(str(error).split())[:300]}")
    if isinstance(error, boto.ProfileNotFound | boto.PartialCredentialsError | boto.NoCredentialsError):
        return Denied(f"{what}: {str(error)[:300]}", hint=ACCOUNT_HINT)
    if isinstance(error, boto.CredentialRetrievalError | boto.MetadataRetrievalError):
        hint = (
            "Does what the AWS configuration names work here: its credential_process, the metadata service?"
        )
        return Denied(f"{what}: the account cannot be read ({type(error).__name__})", hint=hint)
    if isinstance(error, ResponseParserError):
        return Broken(
            f"{what}: {endpoint} does not answer as S3 does", hint="Is this the address of an S3 server?"
        )
    if isinstance(error, boto.BotoCoreError):
        return Unavailable(f"{what}: {type(error).__name__} at {endpoint}")
    return None


def code_of(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", "")) or str(status_of(error))


def status_of(error: Any) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
