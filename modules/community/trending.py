"""What is trending: recent downloads and likes, worth half as much after every week."""

from django.db import connection

from modules.community.counting import DAYS_KEPT

HALF_LIFE_DAYS = 7
LIKE = 3  # a like is worth so many downloads

UPDATE = """
WITH points AS (
    SELECT m.id, power(0.5, (%(today)s - d.day) / %(half)s) AS worth
    FROM modules_download d JOIN modules_loramodule m ON m.repo_id = d.repo_id
    WHERE d.day > %(today)s - %(days)s
  UNION ALL
    SELECT l.lora_module_id,
           %(like)s * power(0.5, extract(epoch FROM now() - l.created_at) / 86400 / %(half)s)
    FROM modules_like l
    WHERE l.created_at > now() - make_interval(days => %(days)s)
), score AS (
    SELECT id, sum(worth)::float8 AS trending FROM points GROUP BY id
)
UPDATE modules_loramodule m SET trending = coalesce(score.trending, 0)
FROM modules_loramodule before LEFT JOIN score ON score.id = before.id
WHERE m.id = before.id AND before.trending IS DISTINCT FROM coalesce(score.trending, 0)
"""


def update_trending() -> int:
    """Score every module anew, in one statement; returns for how many that changed anything."""
    values = {"half": float(HALF_LIFE_DAYS), "like": LIKE, "days": DAYS_KEPT}
    today = "(now() AT TIME ZONE 'utc')::date"
    with connection.cursor() as cursor:
        cursor.execute(UPDATE.replace("%(today)s", today), values)
        return cursor.rowcount
