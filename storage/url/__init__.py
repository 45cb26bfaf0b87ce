"""Files from HTTP servers: the `urlDownload` source."""

from storage.url.params import UrlParams
from storage.url.source import UrlSource, open_url

__all__ = ["UrlParams", "UrlSource", "open_url"]
