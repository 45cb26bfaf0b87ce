"""Objects in S3 and in what speaks like it: MinIO, Ceph, SeaweedFS, versitygw and others.

A driver is made from settings alone: ``S3Source(S3Settings())`` and ``S3Publisher(S3Settings())``; both work in any task of
one event loop, hold connections open, and let go of them in ``close()``. Credentials come from the AWS chain of the node
(environment, profile, container or instance role) unless the settings hold some; where there are none, requests are
unsigned, as public buckets want them.

============  ====================================================================
params        the drivers' parameters and settings
keys          from keys to names on the disk (pure)
kept_keys     whether a server keeps a key as it is given
globs         wildcards in keys (pure)
partitions    which execution reads which object (pure)
dates         dates in keys, by Go's layouts (pure), of the words in `date_words`
patterns      regular expressions of strangers, by RE2
account       whether the node has an account
client        connections, by aiobotocore
bulk          how bytes and listings are asked for past botocore
signing       signatures for that (pure)
faults        what S3 and botocore say, as our faults
source        resolve and fetch
upload        one object from a stream, in parts where it is large
publisher     a result as an archive, or as one object a file
============  ====================================================================
"""

from storage.s3.client import S3Client, load
from storage.s3.params import Partition, PublisherParams, S3Settings, SourceParams
from storage.s3.publisher import S3Publisher
from storage.s3.signing import Credentials
from storage.s3.source import S3Source

__all__ = [
    "Credentials",
    "Partition",
    "PublisherParams",
    "S3Client",
    "S3Publisher",
    "S3Settings",
    "S3Source",
    "SourceParams",
    "load",
]
