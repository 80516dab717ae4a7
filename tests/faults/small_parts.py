"""The site with small limits, so that tests need no large files: from which size on clients send a
file before the commit, and in which parts."""

import os

from hub_site.wsgi import application
from modules.hub_api import lfs, write

write.INLINE_LIMIT = int(os.environ.get("INLINE_LIMIT", write.INLINE_LIMIT))
lfs.PART = int(os.environ.get("PART", lfs.PART))
__all__ = ["application"]
