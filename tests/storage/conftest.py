"""What the tests of storage share."""

import pytest

from deploy.servers import S3Server


@pytest.fixture(params=["s3", "seaweedfs"])
def server(request: pytest.FixtureRequest) -> S3Server:
    """Two servers of different make."""
    found: S3Server = request.getfixturevalue(request.param)
    return found
