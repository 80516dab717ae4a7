"""The Celery app. Messages are only wake-ups, so they are acknowledged early and may be lost."""

import os
import warnings
from typing import Any

from celery import Celery
from celery.platforms import SecurityWarning
from django.conf import settings
from kombu.transport import TRANSPORT_ALIASES

from hub_site.jobs.reaper import Reaper

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "hub_site.settings")

# The warning about root is about pickled messages; only JSON is accepted here.
warnings.filterwarnings("ignore", category=SecurityWarning)

TRANSPORT_ALIASES["folder"] = "hub_site.jobs.folder_broker:Transport"
app = Celery("lora_commons")
is_folder = settings.CELERY_BROKER_URL.startswith("filesystem:")
# A host that means nothing: kombu warns when there is none.
broker = "folder://localhost" if is_folder else settings.CELERY_BROKER_URL


def _transport_options() -> dict[str, Any]:
    if not is_folder:
        # A page that submits a job must not wait for a broker that is down.
        return {"socket_connect_timeout": 2, "max_retries": 1, "interval_start": 0}
    queue, control = settings.BROKER_DIR / "queue", settings.BROKER_DIR / "control"
    for folder in (queue, control):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return {
        "data_folder_in": str(queue),
        "data_folder_out": str(queue),
        "control_folder": str(control),
        "polling_interval": 0.1,
    }


app.conf.update(
    # The last word over Celery's command line, which takes the variable BROKER_URL for its own
    # option, and so would leave out a BROKER_PASSWORD.
    broker_read_url=broker,
    broker_write_url=broker,
    broker_transport_options=_transport_options(),
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    accept_content=["json"],
    task_serializer="json",
    task_ignore_result=True,
    task_acks_late=False,
    task_publish_retry=False,
    worker_prefetch_multiplier=1,
    worker_disable_prefetch=settings.CELERY_BROKER_URL.startswith("redis"),
    worker_lost_wait=1,  # seconds until a dead child's task is given up; ours is only a doorbell
    worker_enable_remote_control=False,
    worker_pool="hub_site.jobs.pool:TaskPool",  # also what `--pool prefork` gives
    worker_hijack_root_logger=False,
    timezone="UTC",
)
app.steps["worker"].add(Reaper)
app.autodiscover_tasks()
