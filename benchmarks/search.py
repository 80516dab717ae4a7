"""What a list, a search and a page cost with 200,000 modules in the library.

    python -m benchmarks.search [--modules 200000] [--rounds 60] [--keep FOLDER]

Fills a scratch PostgreSQL of its own (the embedded one, without fsync) with modules of 1,000
owners on 300 base models with 2,000 tags, all skewed as libraries are, each with the search words
of a card of 2 kB. Then asks the site for its pages in this process: URLs, middleware, views and
templates are the real ones, the socket and the browser are missing. For every kind of page: how
many queries, and median and 95th percentile of the time in the database alone and of the whole
view. Parameters differ from request to request; the first few of each kind are not counted. Time
on the CPU, of this process and of its PostgreSQL backend, is what remains without other programs.

The scratch database is dropped at the end; `--keep` leaves it in a folder and finds it there again.
"""

from __future__ import annotations

import argparse
import html
import io
import math
import os
import random
import re
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlencode

if TYPE_CHECKING:
    from django.db.models import Model

OWNERS, BASE_MODELS, TAGS, RECIPES = 1_000, 300, 2_000, 3_000
PARAGRAPHS, PARAGRAPH_WORDS, CARD_PARAGRAPHS = 5_000, 38, 8
CARDS = 200  # cards that lie in the store, for module pages
WARM_UP = 5
WORDS = """
the of and to a in is for on with this it as that model base module lora rank trained data
examples language task text answer question english from use few shot adapter weights small
large training set words input output test score accuracy loss learning rate steps batch
layers attention query value key target module translate summary sentiment dialogue code
python math legal medical news story poem recipe review product support chat email names dates
places animals plants history science physics chemistry law finance sports music film games
travel weather health food family school work style formal informal short long french german
spanish italian dutch polish czech finnish arabic hindi japanese korean chinese turkish
""".split()  # noqa: SIM905


# --- filling -----------------------------------------------------------------------------------


def vocabulary(draw: random.Random, size: int) -> list[str]:
    """Words that could be words, the common ones first."""
    onsets = "b c d f g h j k l m n p r s t v w z br cr dr fl gr pl pr st str th sh ch".split()  # noqa: SIM905
    vowels = "a e i o u ai ea ou".split()  # noqa: SIM905
    ends = ["", "", "n", "r", "s", "l", "t", "nd", "st", "ck"]
    words = list(dict.fromkeys(WORDS))
    seen = set(words)
    while len(words) < size:
        parts = draw.choice((2, 2, 3, 3, 4))
        word = "".join(draw.choice(onsets) + draw.choice(vowels) for _ in range(parts))
        word += draw.choice(ends)
        if word not in seen:
            seen.add(word)
            words.append(word)
    return words


def fill(model: type[Model], values: Mapping[str, str], source: str) -> None:
    """INSERT ... SELECT; whatever `values` leaves out gets the model's own default."""
    from django.db import connection
    from django.db.models import NOT_PROVIDED, GeneratedField

    columns, selected = list(values), [value.replace("%", "%%") for value in values.values()]
    parameters: list[Any] = []
    for field in model._meta.concrete_fields:
        left_out = field.column not in values and not field.primary_key
        if not left_out or isinstance(field, GeneratedField):
            continue
        columns.append(field.column)
        if getattr(field, "auto_now", False) or getattr(field, "auto_now_add", False):
            selected.append("now()")
        elif field.null and field.default is NOT_PROVIDED:
            selected.append("NULL")
        else:
            selected.append("%s")
            parameters.append(field.get_db_prep_save(field.get_default(), connection))
    names = ", ".join(f'"{column}"' for column in columns)
    sql = f'INSERT INTO "{model._meta.db_table}" ({names}) SELECT {", ".join(selected)} '
    sql += source.replace("%", "%%")
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)


def fill_database(modules: int) -> None:
    from django.db import connection

    from composer.models import Ingredient, Recipe
    from hub_site.accounts.models import Namespace, User
    from modules.finding import search
    from modules.models import BaseModel, Blob, Commit, CommitFile, LoraModule, Ref, Repo, Tag
    from modules.storage import local

    draw = random.Random(7)  # noqa: S311
    words = vocabulary(draw, 30_000)
    with connection.cursor() as cursor:
        cursor.execute("SET session_replication_role = replica")  # rows that fit need no triggers
        cursor.execute("SET max_parallel_workers_per_gather = 0")  # else the seed means nothing
        cursor.execute("SET work_mem = '256MB'; SET maintenance_work_mem = '512MB'")
        cursor.execute("SELECT setseed(0.7)")
        dropped = drop_indexes(cursor)
        cursor.execute("CREATE TEMP TABLE word (n int PRIMARY KEY, word text)")
        with cursor.copy("COPY word FROM STDIN") as copy:
            for row in enumerate(words):
                copy.write_row(row)
        weights = [1 / (place + 3) for place in range(len(words))]
        totals = list(_running(weights))
        cursor.execute("CREATE TEMP TABLE paragraph (n int PRIMARY KEY, words tsvector)")
        texts = [
            " ".join(draw.choices(words, cum_weights=totals, k=PARAGRAPH_WORDS))
            for _ in range(PARAGRAPHS)
        ]
        cursor.execute("CREATE TEMP TABLE draft (n int, body text)")
        with cursor.copy("COPY draft FROM STDIN") as copy:
            for row in enumerate(texts):
                copy.write_row(row)
        cursor.execute("INSERT INTO paragraph SELECT n, to_tsvector('simple', body) FROM draft")

    fill(
        User,
        {"id": "n", "username": "word || n", "email": "word || n || '@example.org'",
         "password": "'!'"},
        f"FROM word WHERE n BETWEEN 1 AND {OWNERS}",
    )  # fmt: skip
    fill(
        Namespace,
        {"id": "n", "name": "word || n", "kind": "'user'", "user_id": "n"},
        f"FROM word WHERE n BETWEEN 1 AND {OWNERS}",
    )
    fill(
        BaseModel,
        {"id": "n", "name": "'org' || n % 40 || '/' || word || '-' || (n % 9 + 1) || 'b'",
         "source": "'hub'"},
        f"FROM word WHERE n BETWEEN 1 AND {BASE_MODELS}",
    )  # fmt: skip
    fill(
        Tag,
        {"id": "n", "name": "CASE WHEN n % 3 = 0 THEN word || '-' || n ELSE word END"},
        f"FROM word WHERE n BETWEEN 1 AND {TAGS}",
    )
    fill(
        Repo,
        {"id": "s.n", "owner_id": f"1 + floor({OWNERS} * power(random(), 2))::int",
         "name": "a.word || '-' || b.word || "
         "CASE WHEN s.n % 3 = 0 THEN '-lora-' ELSE '-' END || s.n",
         "kind": "'lora'",
         "visibility": "CASE WHEN random() < 0.03 THEN 'private' ELSE 'public' END",
         "hidden_at": "CASE WHEN random() < 0.01 THEN now() END",
         "downloads": "floor(exp(power(random(), 3) * 14))::bigint"},
        f"""FROM (SELECT n, floor(4000 * power(random(), 2))::int AS x,
                     floor(30000 * random())::int AS y
              FROM generate_series(1, {modules}) n) s
            JOIN word a ON a.n = s.x JOIN word b ON b.n = s.y""",
    )  # fmt: skip
    fill(
        Commit,
        {"id": "r.id", "repo_id": "r.id",
         "sha": "md5(r.id::text) || substr(md5('x' || r.id), 1, 8)",
         "author_id": "r.owner_id", "title": "'First version'",
         "created_at": "now() - random() * interval '900 days'"},
        "FROM modules_repo r",
    )  # fmt: skip
    fill(
        Ref,
        {"repo_id": "id", "kind": "'branch'", "name": "'main'", "commit_id": "id"},
        "FROM modules_repo",
    )
    for n in range(CARDS):
        body = "\n\n".join(draw.choices(texts, k=CARD_PARAGRAPHS))
        card = f"---\nlicense: mit\ntags: [words]\n---\n# A module\n\n{body}\n"
        stored = local.put(io.BytesIO(card.encode()))
        Blob.objects.get_or_create(
            sha256=stored.sha256, defaults={"size": stored.size, "git_sha1": stored.git_sha1}
        )
        with connection.cursor() as cursor:
            cursor.execute("CREATE TEMP TABLE IF NOT EXISTS card (n int, sha text)")
            cursor.execute("INSERT INTO card VALUES (%s, %s)", [n, stored.sha256])
    fill(
        Blob,
        {
            "sha256": "md5('w' || n) || md5(n::text)",
            "size": "(1 + n) * 20000",
            "git_sha1": "md5('g' || n)",
        },
        "FROM generate_series(0, 999) n",
    )
    fill(
        CommitFile,
        {"commit_id": "c.id", "path": "p.path",
         "blob_id": "CASE p.path WHEN 'README.md' THEN card.sha "
         "ELSE md5('w' || c.id % 1000) || md5((c.id % 1000)::text) END"},
        f"""FROM modules_commit c CROSS JOIN
            (VALUES ('README.md'), ('adapter_config.json'), ('adapter_model.safetensors')) p (path)
            JOIN card ON card.n = c.id % {CARDS}""",
    )  # fmt: skip
    with connection.cursor() as cursor:
        cursor.execute(
            f"""CREATE TEMP TABLE chosen AS
            SELECT r.id, ARRAY(SELECT DISTINCT 1 + floor({TAGS} * power(random(), 2))::int
                               FROM generate_series(1, 1 + (r.id % 7)::int)) AS tags
            FROM modules_repo r"""
        )
        cursor.execute(
            f"""CREATE TEMP TABLE card_words AS
            SELECT id, (SELECT string_agg(p.words::text, ' ') FROM paragraph p
                        WHERE p.n = ANY(ns))::tsvector AS words
            FROM (SELECT r.id, ARRAY(SELECT floor({PARAGRAPHS} * random())::int
                                     FROM generate_series(1, {CARD_PARAGRAPHS} + (r.id * 0)::int))
                         AS ns FROM modules_repo r) s"""
        )
        cursor.execute("CREATE UNIQUE INDEX ON card_words (id); CREATE UNIQUE INDEX ON chosen (id)")
        cursor.execute("ANALYZE card_words; ANALYZE chosen")
    targets = """(ARRAY['["q", "v"]', '["q_proj", "v_proj"]',
        '["q_proj", "k_proj", "v_proj", "o_proj"]', '["c_attn"]',
        '["gate_proj", "up_proj", "down_proj"]', '["query", "value"]'])"""
    fill(
        LoraModule,
        {
            "id": "s.id", "repo_id": "s.id", "commit_id": "s.id", "status": "s.status",
            "published_at": "s.published_at",
            "is_listed": "s.visibility = 'public' AND s.hidden_at IS NULL "
            "AND s.status <> 'rejected'",
            "downloads": "s.downloads", "likes": "floor(exp(power(random(), 4) * 8))::int - 1",
            "trending": "CASE WHEN random() < 0.1 THEN s.downloads * random() ELSE 0 END",
            "base_model_id": "b.id", "base_model_name": "b.name",
            "r": "power(2, 1 + floor(8 * (random() + random()) / 2))::int", "lora_alpha": "16",
            "target_modules": f"({targets}[1 + floor(6 * power(random(), 2))::int])::jsonb",
            "weights_size": "floor(exp(10 + random() * 10))::bigint",
            "weights_sha256": "md5(s.id::text) || md5('w' || s.id)",
            "summary": "'Answers with ' || x.word || ' where the input says ' || y.word || '.'",
            "licence": """(ARRAY['apache-2.0', 'mit', 'cc-by-4.0', 'cc-by-nc-4.0', 'llama3.1',
                          'gpl-3.0', 'openrail', ''])[1 + floor(8 * power(random(), 2))::int]""",
            "language": """(ARRAY['en', 'en, fr', 'zh', 'de', 'fr', 'es', 'multilingual', 'ja',
                           'fi', ''])[1 + floor(10 * power(random(), 2))::int]""",
            "task": """(ARRAY['text-generation', 'summarization', 'translation',
                       'question-answering', 'text-classification', '', 'chat', 'code'])
                       [1 + floor(8 * power(random(), 2))::int]""",
            "name_key": "lower(s.name)",
            "tag_names": "ARRAY(SELECT t.name FROM modules_tag t WHERE t.id = ANY(chosen.tags))",
        },
        f"""FROM (SELECT r.*, c.created_at AS published_at,
                CASE WHEN random() < 0.03 THEN 'rejected' WHEN random() < 0.01 THEN 'checking'
                     ELSE 'ready' END AS status,
                1 + floor({BASE_MODELS} * power(random(), 3))::int AS base,
                floor(30000 * power(random(), 3))::int AS x, floor(30000 * random())::int AS y
            FROM modules_repo r JOIN modules_commit c ON c.id = r.id) s
            JOIN modules_basemodel b ON b.id = s.base JOIN chosen ON chosen.id = s.id
            JOIN word x ON x.n = s.x JOIN word y ON y.n = s.y ORDER BY s.id""",
    )  # fmt: skip
    with connection.cursor() as cursor:
        cursor.execute(
            """UPDATE modules_loramodule m SET
                head = setweight(s.name, 'A') || setweight(s.tags, 'B') || setweight(s.owner, 'C')
                    || setweight(s.said, 'D'),
                search = setweight(s.name, 'A') || setweight(s.tags, 'B')
                    || setweight(s.owner || s.summary, 'C') || setweight(s.card, 'D')
            FROM (
                SELECT l.id, c.words AS card,
                    to_tsvector('simple', translate(lower(r.name), '-', ' ')) AS name,
                    to_tsvector('simple',
                        translate(lower(array_to_string(l.tag_names, ' ')), '-', ' ')) AS tags,
                    to_tsvector('simple', lower(a.name)) AS owner,
                    to_tsvector('simple', lower(l.summary)) AS said,
                    to_tsvector('simple', lower(l.summary || ' ' || l.base_model_name)) AS summary
                FROM modules_loramodule l JOIN card_words c ON c.id = l.id
                JOIN modules_repo r ON r.id = l.repo_id
                JOIN accounts_namespace a ON a.id = r.owner_id
                ORDER BY l.id
            ) s WHERE s.id = m.id"""
        )
        cursor.execute(
            """INSERT INTO modules_loramodule_tags (loramodule_id, tag_id)
            SELECT id, unnest(tags) FROM chosen"""
        )
    fill(
        Recipe,
        {"digest": "md5(n::text) || md5('r' || n)", "document": "'{}'", "title": "'Recipe ' || n",
         "base_model_id": "1", "published_at": "now()", "published_by_id": "1 + n % 1000"},
        f"FROM generate_series(1, {RECIPES}) n",
    )  # fmt: skip
    fill(
        Ingredient,
        {"recipe_id": "md5(n::text) || md5('r' || n)", "position": "k", "name": "'a/b'",
         "lora_module_id": f"1 + floor({modules} * power(random(), 4))::int", "revision": "'x'",
         "weights_sha256": "'x'", "weight": "0.5"},
        f"FROM generate_series(1, {RECIPES}) n, generate_series(0, 4) k",
    )  # fmt: skip
    search.mark_known()  # before there are indexes to be kept
    with connection.cursor() as cursor:
        cursor.execute("VACUUM FULL modules_loramodule")  # the update left every row twice
        for definition in dropped:
            cursor.execute(definition)
        for table in connection.introspection.table_names(cursor):
            cursor.execute(
                """SELECT pg_get_serial_sequence(%s, column_name::text) FROM
                information_schema.columns WHERE table_name = %s AND column_name = 'id'""",
                [f'"{table}"', table],
            )
            for (sequence,) in cursor.fetchall():
                if sequence:
                    last = f'SELECT greatest(1, max(id)) FROM "{table}"'
                    cursor.execute(f"SELECT setval('{sequence}', ({last}))")
        cursor.execute("VACUUM ANALYZE")
        cursor.execute("SET session_replication_role = origin")
        cursor.execute("RESET ALL")


def _running(weights: list[float]) -> Iterator[float]:
    total = 0.0
    for weight in weights:
        total += weight
        yield total


def drop_indexes(cursor: Any) -> list[str]:
    """Take the modules' indexes away while rows go in; returns what makes them again."""
    cursor.execute(
        """SELECT indexname, indexdef FROM pg_indexes WHERE tablename = 'modules_loramodule'
        AND NOT EXISTS (SELECT 1 FROM pg_constraint WHERE conname = indexname)"""
    )
    found = cursor.fetchall()
    for name, _ in found:
        cursor.execute(f'DROP INDEX "{name}"')
    return [definition for _, definition in found]


# --- asking ------------------------------------------------------------------------------------


class Clock:
    """How often and how long the database was asked, within one request."""

    def __init__(self) -> None:
        self.queries, self.seconds = 0, 0.0
        self.slowest: tuple[float, str] = (0.0, "")

    def __call__(self, execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        start = time.perf_counter()
        try:
            return execute(sql, params, many, context)
        finally:
            spent = time.perf_counter() - start
            self.queries, self.seconds = self.queries + 1, self.seconds + spent
            self.slowest = max(self.slowest, (spent, f"{sql} {params}"))


Ask = Callable[[int], tuple[str, dict[str, str]]]


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def on_cpu(pid: int) -> float:
    """Seconds that a process was on a core, where Linux tells them; else not a number."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9
    except OSError:
        return math.nan


def measure(name: str, client: Any, ask: Ask, rounds: int, show: str) -> str:
    """Waiting and working are told apart: on a busy machine a request mostly waits."""
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        backend = cursor.fetchone()[0]
    columns: list[list[float]] = [[], [], [], []]
    queries, slowest = set(), (0.0, "")
    for turn in range(-WARM_UP, rounds):
        address, headers = ask(turn)
        clock = Clock()
        with connection.execute_wrapper(clock):
            own, other, start = time.process_time(), on_cpu(backend), time.perf_counter()
            answer = client.get(address, headers=headers)
            spent = time.perf_counter() - start
            worked, database = time.process_time() - own, on_cpu(backend) - other
        if answer.status_code != 200:
            raise SystemExit(f"{address} answered {answer.status_code}")
        if turn >= 0:
            for column, seconds in zip(
                columns, (clock.seconds, spent, database, worked + database), strict=True
            ):
                column.append(1000 * seconds)
            queries.add(clock.queries)
            slowest = max(slowest, clock.slowest)
    if show and show in name:
        print(f"\n{address}\n{1000 * slowest[0]:.1f} ms: {slowest[1]}\n")
    counts = "–".join(str(n) for n in sorted({min(queries), max(queries)}))
    figures = [
        f"{statistics.median(values):.1f} / {percentile(values, 0.95):.1f}" for values in columns
    ]
    return f"| {name} | {counts} | {' | '.join(figures)} |"


def asks(client: Any) -> dict[str, Ask]:
    """Each kind of page, and a way to its address in every round."""
    from django.db import connection

    draw = random.Random(3)  # noqa: S311

    def rows(sql: str) -> list[Any]:
        with connection.cursor() as cursor:
            cursor.execute(sql)
            return list(cursor.fetchall())

    sample = rows(
        """SELECT base_model_name, licence, task, r, tag_names, n.name, p.name
        FROM modules_loramodule m JOIN modules_repo p ON p.id = m.repo_id
        JOIN accounts_namespace n ON n.id = p.owner_id
        WHERE is_listed AND cardinality(tag_names) > 2 AND licence <> '' AND task <> ''
        ORDER BY md5(m.id::text) LIMIT 300"""
    )
    documents = int(
        rows("SELECT count(*) FROM (SELECT 1 FROM modules_loramodule LIMIT 4000) s")[0][0]
    )
    stat = "SELECT search FROM modules_loramodule ORDER BY md5(id::text) LIMIT 4000"
    shares = [
        (word, count / documents)
        for word, count in rows(
            f"SELECT word, ndoc FROM ts_stat($${stat}$$) WHERE word ~ '^[a-z]+$'"
        )
    ]
    shares.sort()
    common = [word for word, share in shares if share > 0.2]
    middling = [word for word, share in shares if 0.01 < share < 0.05]
    rare = [word for word, share in shares if share < 0.001]
    for some in (common, middling, rare):
        draw.shuffle(some)
    part = {"HX-Request": "true", "HX-Target": "found"}

    def page(path: str = "/modules/", headers: dict[str, str] | None = None, **query: Any) -> Any:
        text = urlencode({k: v for k, v in query.items() if v}, doseq=True)
        return f"{path}?{text}" if text else path, headers or {}

    def follow(times: int, **query: Any) -> str:
        cursor = ""
        for _ in range(times):
            address, _ = page(**query, after=cursor)
            body = client.get(address).content.decode()
            link = re.search(r'rel="next" href="([^"]*)"', body)
            assert link is not None, f"{address} has no next page"
            cursor = parse_qs(html.unescape(link[1]).lstrip("?"))["after"][0]
        return cursor

    deep = {
        sort: [follow(99 + n, sort=sort) for n in range(2)] for sort in ("trending", "downloads")
    }

    def nth(some: list[Any], turn: int) -> Any:
        return some[turn % len(some)]

    def row(turn: int) -> Any:
        return sample[(turn + WARM_UP) % len(sample)]

    def first(sort: str) -> Ask:
        return lambda n: page(sort=sort)

    kinds: dict[str, Ask] = {
        "first page": lambda n: page(),
        "page 100, trending": lambda n: page(sort="trending", after=nth(deep["trending"], n)),
        "page 100, most downloads": lambda n: page(
            sort="downloads", after=nth(deep["downloads"], n)
        ),
    }
    for sort in ("downloads", "likes", "newest", "name"):
        kinds[f"first page by {sort}"] = first(sort)
    kinds |= {
        "one facet: base model": lambda n: page(base_model=row(n)[0]),
        "one facet: licence": lambda n: page(licence=row(n)[1]),
        "one facet: rank, by name": lambda n: page(r=row(n)[3], sort="name"),
        "two facets: task and rank, by likes": lambda n: page(
            task=row(n)[2], r=row(n)[3], sort="likes"
        ),
        "one tag": lambda n: page(tag=row(n)[4][0]),
        "two tags and base model": lambda n: page(base_model=row(n)[0], tag=row(n)[4][:2]),
        "composable with a base model": lambda n: page(composable_with=row(n)[0]),
        "search, common word": lambda n: page(q=nth(common, n)),
        "search, middling word": lambda n: page(q=nth(middling, n)),
        "search, rare word": lambda n: page(q=nth(rare, n)),
        "search, three common words": lambda n: page(q=" ".join(common[n % 20 : n % 20 + 3])),
        "search, common word and base model": lambda n: page(
            q=nth(common, n), base_model=row(n)[0]
        ),
        "search, common word, by downloads": lambda n: page(q=nth(common, n), sort="downloads"),
        "search, middling word, by newest": lambda n: page(q=nth(middling, n), sort="newest"),
        "search, owner and name": lambda n: page(q=f"{row(n)[5]}/{row(n)[6]}"),
        "as you type, 1 letter": lambda n: page(q=nth(middling, n)[:1], headers=part),
        "as you type, 3 letters": lambda n: page(q=nth(middling, n)[:3], headers=part),
        "tags suggested for 2 letters": lambda n: page("/tags/suggest", q=row(n)[4][0][:2]),
        "one box for everything, common word": lambda n: page("/search/", q=nth(common, n)),
        "a tag's page": lambda n: page(f"/tags/{row(n)[4][0]}/"),
        "module page": lambda n: page(f"/{row(n)[5]}/{row(n)[6]}"),
        "API, 10 rows": lambda n: page("/api/v1/modules/", page_size=10),
        "API, 50 rows": lambda n: page("/api/v1/modules/", page_size=50),
    }
    return kinds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--modules", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="leave the database there")
    parser.add_argument(
        "--only", default="", help="only the kinds of pages with this in their name"
    )
    parser.add_argument("--show", default="", help="print the slowest query of these kinds")
    options = parser.parse_args()
    folder = options.keep or Path(tempfile.mkdtemp(prefix="commons-search-"))
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o711)
    try:
        run(folder, options)
    finally:
        from hub_site import embedded

        embedded.stop(folder)
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)


def run(folder: Path, options: argparse.Namespace) -> None:
    from hub_site import embedded

    os.environ |= {"VAR_DIR": str(folder), "ENV_FILE": os.devnull, "LOG_LEVEL": "ERROR"}
    os.environ["DJANGO_SETTINGS_MODULE"] = "hub_site.settings"
    os.environ["DATABASE_URL"] = embedded.start(folder, durable=False)
    (folder / "static").mkdir(exist_ok=True)
    import django
    from django.conf import settings

    settings.STORAGES = settings.STORAGES | {
        "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
    }
    settings.ALLOWED_HOSTS = ["testserver"]
    django.setup()
    from django.core.management import call_command
    from django.db import connection
    from django.test import Client

    from hub_site.accounts.models import User
    from modules.models import LoraModule

    call_command("migrate", verbosity=0)
    start = time.perf_counter()
    if not LoraModule.objects.exists():
        fill_database(options.modules)
        print(f"Filled in {time.perf_counter() - start:.0f} s.")
    from modules.finding import facets, search

    start = time.perf_counter()
    facets.recount()
    print(f"Counted facets and tags in {time.perf_counter() - start:.1f} s.", end=" ")
    start = time.perf_counter()
    marked = search.mark_known()
    print(f"Marked the best known, {marked} of them anew, in {time.perf_counter() - start:.1f} s.")
    before = os.getloadavg()[0]
    print("| page | queries | SQL, ms | view, ms | SQL on the CPU, ms | view on the CPU, ms |")
    print("|---|---:|---:|---:|---:|---:|")
    client = Client()
    kinds = asks(client)
    for name, ask in kinds.items():
        if options.only in name:
            print(measure(name, client, ask, options.rounds, options.show), flush=True)
    someone = Client()
    someone.force_login(User.objects.get(pk=1))
    if options.only in (name := "first page, signed in, 8,000 modules of one's own"):
        print(measure(name, someone, kinds["first page"], options.rounds, options.show))
    with connection.cursor() as cursor:
        cursor.execute(
            """SELECT version(), pg_size_pretty(pg_relation_size('modules_loramodule')),
            pg_size_pretty(pg_total_relation_size('modules_loramodule')),
            (SELECT count(*) FROM modules_loramodule),
            (SELECT count(*) FROM modules_loramodule WHERE is_listed)"""
        )
        version, heap, whole, count, listed = cursor.fetchone()
    print(
        f"\n{count:,} modules, {listed:,} of them listed; their table {heap}, with search words "
        f"and indexes {whole}. {version.split(' on ')[0]} with 64 MB of shared buffers; "
        f"{os.cpu_count()} cores, load {before:.1f} before and {os.getloadavg()[0]:.1f} after."
    )


if __name__ == "__main__":
    main()
