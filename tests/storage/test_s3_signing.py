"""Our signatures beside botocore's."""

from datetime import UTC, datetime
from typing import Any

import botocore.credentials as boto
import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import Invalid
from storage.s3.bulk import PROBE, Bulk
from storage.s3.signing import UNSIGNED, Credentials, Scope, Signer, query_of, quoted_path

AT = 1_700_000_000.0
KEYS = st.text(min_size=1, max_size=30).filter(
    lambda key: ("\0" not in key and key.isprintable()) or "\n" in key
)


def by_botocore(method: str, url: str, headers: dict[str, str], account: Credentials) -> str:
    """The authorization that botocore gives to the same request at the same moment."""
    clock = datetime.fromtimestamp(AT, UTC).strftime("%Y%m%dT%H%M%SZ")
    request = AWSRequest(method, url, headers={**headers, "X-Amz-Content-SHA256": UNSIGNED})
    request.context["timestamp"] = clock
    request.headers["X-Amz-Date"] = clock
    signer: Any = S3SigV4Auth(
        boto.Credentials(account.access_key, account.secret_key, account.session_token or None),
        "s3",
        "eu-north-1",
    )
    if account.session_token:
        request.headers["X-Amz-Security-Token"] = account.session_token
    signer._inject_signature_to_request(
        request, signer.signature(signer.string_to_sign(request, _canonical(signer, request)), request)
    )
    return str(request.headers["Authorization"])


def _canonical(signer: Any, request: AWSRequest) -> str:
    text: str = signer.canonical_request(request)
    return text


@given(KEYS, st.dictionaries(st.sampled_from(["versionId", "prefix", "uploadId", "z"]), KEYS, max_size=3))
def test_signatures_are_botocores(key: str, query: dict[str, str]) -> None:
    """Whatever the key, the query and the headers, botocore would have signed the same."""
    account = Credentials("AKID", "secret", "token" if "z" in query else "")
    target = f"/bucket/{quoted_path(key)}" + (f"?{query_of(query)}" if query else "")
    headers = {"Range": "bytes=0-9", "If-Match": '"etag"'}

    ours = Signer(account, Scope("eu-north-1")).signed("GET", "host:9000", target, headers, AT)

    assert ours["Authorization"] == by_botocore("GET", f"http://host:9000{target}", headers, account)


def test_a_signer_takes_another_account_and_another_day() -> None:
    """A renewed account, and midnight, change the key."""
    signer = Signer(Credentials("AKID", "secret"), Scope("eu-north-1"))
    first = signer.signed("GET", "h", "/b/k", {}, AT)

    assert signer.signed("GET", "h", "/b/k", {}, AT) == first
    assert signer.signed("GET", "h", "/b/k", {}, AT + 86_400) != first
    signer.account = Credentials("AKID", "other")
    assert signer.signed("GET", "h", "/b/k", {}, AT)["Authorization"] != first["Authorization"]


@pytest.mark.parametrize("key", ["a//b", "/a", "a/../b", "a b+c", "~é", "a\nb", "?#&="])
def test_a_key_stands_in_a_path_as_it_is(key: str) -> None:
    """Slashes stay, dots are not folded, all else is quoted."""
    from urllib.parse import unquote

    assert unquote(quoted_path(key)) == key
    assert quoted_path(key).count("/") == key.count("/")
    assert not set(quoted_path(key)) & set(" ?#&=+\n")


def test_no_secret_shows() -> None:
    """The text form of an account has no secret."""
    assert "secret" not in repr(Credentials("AKID", "secret", "token"))
    assert "token" not in repr(Credentials("AKID", "secret", "token"))


@pytest.mark.parametrize(
    ("algorithm", "scope"),
    [
        ("AWS4-ECDSA-P256-SHA256", "20261201/s3/aws4_request"),
        ("AWS4-HMAC-SHA256", "20261201/r/s3express/aws4_request"),
    ],
)
def test_a_bucket_of_another_kind_is_told(algorithm: str, scope: str) -> None:
    """A bucket that wants signatures of another kind is told as that; nothing is signed in vain."""
    url = f"https://b.example/{PROBE}?X-Amz-Algorithm={algorithm}&X-Amz-Credential=A/{scope}"

    with pytest.raises(Invalid, match="another kind of signature"):
        Bulk("b", "https://example", url, Credentials("A", "s"))
