"""Health checks of containers: `python -m hub_site.probe worker`, or `web HOST:PORT`. 0 is well.

Light, because it runs every few seconds: no Django is set up. A web process is well when it
answers, whatever it says of database and workers: starting it anew would not bring those back.
/healthz says how the whole site is.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import sys

TIMEOUT = 8
SILENCE = 60  # seconds; a worker writes down that it lives several times in one lease
SEEN = """
SELECT max(seen_at) > now() - make_interval(secs => %s) FROM jobs_worker
WHERE host = %s
"""


def web(address: str) -> str:
    """What /healthz says of the web process there; raises OSError when it says nothing."""
    names = os.environ.get("ALLOWED_HOSTS", "").split(",")
    headers = {"Host": names[0].strip() or "127.0.0.1", "X-Forwarded-Proto": "https"}
    headers["X-Forwarded-For"] = "127.0.0.1"
    connection = http.client.HTTPConnection(address, timeout=TIMEOUT)
    try:
        connection.request("GET", "/healthz", headers=headers)
        said = json.loads(connection.getresponse().read())
    except (http.client.HTTPException, ValueError) as error:
        raise OSError(f"It answered something else than it should: {error!r}") from None
    workers = said.pop("workers", {})
    return ", ".join(f"{name}: {state}" for name, state in {**said, **workers}.items())


def worker() -> str:
    """Raises OSError unless a worker of this machine (this container) reported lately."""
    import psycopg

    from hub_site.env import env_secret, with_password

    url = with_password(env_secret("DATABASE_URL"), env_secret("DATABASE_PASSWORD"), of="DATABASE")
    host = socket.gethostname()
    try:
        with psycopg.connect(url, connect_timeout=TIMEOUT) as connection:
            row = connection.execute(SEEN, [SILENCE, host]).fetchone()
    except psycopg.Error as error:
        raise OSError(f"The database does not say: {error}") from None
    if row is None or not row[0]:
        raise OSError(f"No worker on {host} has reported for {SILENCE} seconds.")
    return "reported"


def main(arguments: list[str]) -> int:
    try:
        if len(arguments) == 2 and arguments[0] == "web":
            print(web(arguments[1]))  # noqa: T201
        elif arguments == ["worker"]:
            print(worker())  # noqa: T201
        else:
            raise OSError("Say what to look at: worker, or web with its HOST:PORT.")
    except OSError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
