"""Objects in S3 and in what speaks like it: MinIO, Ceph, SeaweedFS, versitygw and others.

A driver is made from settings alone: ``S3Source(S3Settings())`` and ``S3Publisher(S3Settings())``; both work in any task of
one event loop, hold connections open, and let go of them in ``close()``. Credentials come from the AWS chain of the node
(environment, profile, container or instance role) unless the settings hold some; where there are none, requests are
unsigned, as public buckets want them.

=============  ===================================================================
params         the drivers' parameters and settings
               **what is meant** (pure but for the last two)
keys           from keys to names on the disk
globs          wildcards in keys
partitions     which execution reads which object
dates          dates in keys, by Go's layouts, of the words in `date_words`
patterns       regular expressions of strangers, by RE2
listing        what a result of one object a file consists of
planned        what objects a folder becomes
selection      which objects an input means, and by `near` which may have been meant
kept_keys      whether a server keeps a key as it is given
               **as whom and where**
account        whether the node has an account
renewal        an account that ends, and the next
client         connections, by aiobotocore, whose requests travel by `session`
connection     what can be asked of one
faults         what S3 and botocore say, as our faults
               **bytes, past botocore**
signing        signatures (pure)
bulk           how bytes and listings of a bucket are asked for
remote_object  how one object's bytes are, and `links` by links
checksums      sums that S3 keeps of an object, and `verifying` what has come
pieces         a stream in parts
upload         one object from a stream, in parts where it is large
               **drivers**, with `driver` in common
source         resolve and fetch
publisher      a result as an archive or as one object a file: where it goes; by `sending` its bytes go there, at keys that
               `claims` lets it take
managed        results to a requester's own bucket
results        links to results, signed by who has an account
presigned      results by such links
=============  ===================================================================
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
