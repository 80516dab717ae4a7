"""The site's settings on folders of the test run's own. conftest.py brings the database."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

folder = tempfile.mkdtemp(prefix="commons-test-")
Path(folder, "static").mkdir()
atexit.register(shutil.rmtree, folder, ignore_errors=True)

# Set in the environment, so that the processes that a test starts see the same.
os.environ["VAR_DIR"] = folder
os.environ["ENV_FILE"] = os.devnull
for name in ("BLOB_DIR", "BROKER_URL", "CACHE_DIR", "DATABASE_URL", "DEBUG", "HF_TOKEN"):
    os.environ.pop(name, None)
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

from hub_site.settings import *  # noqa: E402, F403
from hub_site.settings import INSTALLED_APPS as OURS  # noqa: E402

INSTALLED_APPS = [*OURS, "tests.kinds_app.TestKinds"]
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
JOB_SCHEDULE = False  # tests that want the site's own jobs submit them
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
}
