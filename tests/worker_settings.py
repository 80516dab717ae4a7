"""The site's settings and the tests' job kinds, for worker processes that tests start."""

from hub_site.env import env_bool
from hub_site.settings import *  # noqa: F403
from hub_site.settings import INSTALLED_APPS as OURS

INSTALLED_APPS = [*OURS, "tests.kinds_app.TestKinds"]
JOB_SCHEDULE = env_bool("JOB_SCHEDULE", False)
