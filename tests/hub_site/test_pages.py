import re

import pytest
from django.http import HttpResponse
from django.template import Context, Template
from django.test import Client, RequestFactory
from django.urls import reverse
from django.utils import timezone

from composer.models import FewShotTask, Ingredient, Recipe
from hub_site import colour
from hub_site.accounts.models import Namespace, User
from hub_site.pages import page_or_part, part_id
from hub_site.terms import TERMS
from modules.models import BaseModel, Commit, LoraModule, Repo


def drawn(source: str, **context: object) -> str:
    return Template(source).render(Context(context))


# --- one URL serves a page and its part ---------------------------------------------------------


def answer(**headers: str) -> HttpResponse:
    request = RequestFactory().get("/", headers=headers)
    return page_or_part(request, "404.html", "parts/snippet.html", {"code": "pip install peft"})


def test_it_names_a_part_after_its_file() -> None:
    assert part_id("composer/_job_status.html") == "job-status"


def test_it_sends_the_page_to_a_browser(db: None) -> None:
    assert b"<!doctype html>" in answer().content


def test_it_sends_the_part_only_to_htmx_that_replaces_it(db: None) -> None:
    part = answer(**{"HX-Request": "true", "HX-Target": "snippet"}).content
    assert b"pip install peft" in part
    assert b"<!doctype html>" not in part
    other = answer(**{"HX-Request": "true", "HX-Target": "predictions"}).content
    assert b"<!doctype html>" in other


def test_it_sends_the_page_when_the_browser_goes_back(db: None) -> None:
    headers = {"HX-Target": "snippet", "HX-History-Restore-Request": "true"}
    assert b"<!doctype html>" in answer(**headers).content


def test_it_tells_caches_that_the_address_has_two_answers(db: None) -> None:
    assert "HX-Target" in answer().headers["Vary"]


# --- home ---------------------------------------------------------------------------------------


@pytest.fixture
def base_model(db: None) -> BaseModel:
    return BaseModel.objects.create(name="lab/tiny-base", source=BaseModel.FOLDER)


def a_module(base_model: BaseModel, owner: Namespace, name: str) -> LoraModule:
    repo = Repo.objects.create(owner=owner, name=name, kind=Repo.LORA)
    commit = Commit.objects.create(
        repo=repo, sha=colour.sha256(name.encode()).hexdigest()[:40], created_at=timezone.now()
    )
    return LoraModule.objects.create(
        repo=repo,
        commit=commit,
        status=LoraModule.READY,
        base_model=base_model,
        base_model_name=base_model.name,
        r=8,
        lora_alpha=16,
        weights_size=118_000,
        weights_sha256="a" * 64,
        published_at=timezone.now(),
    )


def a_recipe(base_model: BaseModel, modules: list[LoraModule], digest: str) -> Recipe:
    recipe = Recipe.objects.create(
        digest=digest * 64,
        document={},
        title=f"Blend {digest}",
        base_model=base_model,
        published_at=timezone.now(),
    )
    for position, module in enumerate(modules):
        Ingredient.objects.create(
            recipe=recipe,
            position=position,
            lora_module=module,
            name=str(module),
            revision="b" * 40,
            weights_sha256="a" * 64,
            weight=0.7 - position,
        )
    return recipe


@pytest.fixture
def owner(db: None) -> Namespace:
    user = User.objects.create_user("ada")
    return Namespace.objects.get_or_create(name="ada", kind=Namespace.USER, user=user)[0]


def test_it_says_what_would_stand_on_an_empty_home_page(client: Client, db: None) -> None:
    response = client.get(reverse("home"))
    assert response.status_code == 200
    page = response.content.decode()
    assert "No module here yet" in page
    assert "No recipe yet" in page
    assert "the first one will stand here" in page
    assert "Try it" not in page
    assert reverse("composer:task_new") in page


def test_it_shows_the_newest_modules_and_recipes_at_home(
    client: Client, base_model: BaseModel, owner: Namespace
) -> None:
    modules = [a_module(base_model, owner, name) for name in ("past-tense", "antonyms")]
    recipe = a_recipe(base_model, modules, "c")
    page = client.get(reverse("home")).content.decode()
    assert modules[0].get_absolute_url() in page
    assert recipe.get_absolute_url() in page
    assert "Blend: past-tense +0.70, antonyms −0.30" in page


def test_it_offers_a_demo_task_in_one_click(client: Client, base_model: BaseModel) -> None:
    FewShotTask.objects.create(demo_key="shout", name="Opposites, loud", base_model=base_model)
    page = client.get(reverse("home")).content.decode()
    assert f'action="{reverse("composer:try_demo", args=["shout"])}"' in page
    assert "Try it: Opposites, loud" in page


def test_it_asks_the_database_the_same_number_of_times_however_much_is_listed(
    client: Client,
    base_model: BaseModel,
    owner: Namespace,
) -> None:
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    def queries() -> int:
        with CaptureQueriesContext(
            connection,
        ) as captured:
            client.get(reverse("home"))
        return len(captured)

    modules = [a_module(base_model, owner, f"m{n}") for n in range(2)]
    a_recipe(base_model, modules, "1")
    few = queries()
    modules += [a_module(base_model, owner, f"m{n}") for n in range(2, 8)]
    for digest in "2345":
        a_recipe(base_model, modules, digest)
    assert queries() == few


# --- what went wrong ----------------------------------------------------------------------------


def test_it_answers_a_wrong_address_with_a_way_on(client: Client, db: None) -> None:
    response = client.get("/tasks/nothing/like/this/at/all/")
    assert response.status_code == 404
    page = response.content.decode()
    assert "There is nothing at this address" in page
    assert reverse("composer:recipes") in page


@pytest.mark.parametrize("status, view", [(400, "bad_request"), (403, "forbidden")])
def test_it_says_what_to_do_when_a_request_is_refused(status: int, view: str, db: None) -> None:
    from hub_site import views

    response = getattr(views, view)(RequestFactory().get("/"))
    assert response.status_code == status
    assert b"<h1>" in response.content
    assert b'href="/"' in response.content


def test_it_can_say_our_fault_without_database_or_session() -> None:
    from hub_site import views

    response = views.server_error(RequestFactory().get("/"))
    assert response.status_code == 500
    assert b"our fault" in response.content


def test_no_template_of_ours_has_inline_styles_or_scripts() -> None:
    from django.conf import settings

    for path in (settings.BASE_DIR / "templates").rglob("*.html"):
        text = path.read_text()
        assert not re.search(r"<style|\sstyle=|\son[a-z]+=\"|<script(?![^>]*\ssrc=)", text), path


# --- colours, blends, terms, figures ------------------------------------------------------------


def test_it_gives_a_name_the_same_hue_for_ever() -> None:
    assert colour.hue("lora-commons/past-tense") == colour.hue("LoRA-Commons/Past-Tense")
    assert [colour.hue(name) for name in ("a", "ada/past-tense")] == [5, 7]
    assert {colour.hue(str(n)) for n in range(2000)} == set(range(colour.HUES))


def test_a_blend_is_as_wide_as_its_weights_are_large() -> None:
    svg = drawn("{% blend parts %}", parts=[("x/a", 0.6), ("x/b", -0.2)])
    assert re.findall(r'width="([\d.]+)%"', svg) == ["75.00", "25.00", "25.00"]
    assert svg.count('class="hatch"') == 1
    assert 'aria-label="Blend: a +0.60, b −0.20"' in svg
    assert f"hue-{colour.hue('x/a')}" in svg


def test_a_still_blend_is_sorted_and_a_live_one_keeps_its_places() -> None:
    parts = [("x/a", -0.1), ("x/b", 0.3), ("x/c", 0.6)]
    still = re.findall(r"<title>(\w)", drawn("{% blend parts %}", parts=parts))
    live = re.findall(r"<title>(\w)", drawn('{% blend parts id="live" %}', parts=parts))
    assert (still, live) == (["c", "b", "a"], ["a", "b", "c"])


def test_a_blend_of_nothing_says_so() -> None:
    assert "Blend: nothing in it" in drawn("{% blend parts %}", parts=[])
    assert "Blend: nothing in it" in drawn("{% blend parts %}", parts=[("a", 0.0)])


def test_weight_bars_keep_zero_in_its_place() -> None:
    table = drawn("{% weight_bars parts %}", parts=[("x/a", 1.5), ("x/b", -0.5), ("x/c", 0.0)])
    assert 'x1="25.00%"' in table
    bars = re.findall(r'<rect x="([\d.]+)%" width="([\d.]+)%"', table)
    assert bars == [("25.00", "75.00"), ("25.00", "0.00"), ("0.00", "25.00")]
    assert "+1.500" in table and "−0.500" in table and ">0.000" in table


def test_names_in_drawings_are_escaped() -> None:
    for tag in ("blend parts", "blend_key parts", "weight_bars parts"):
        assert "<b>" not in drawn(f"{{% {tag} %}}", parts=[("x/<b>", 0.5, "/<b>")])


def test_a_term_carries_its_phrase_and_takes_the_focus() -> None:
    html = drawn('{% term "rank" "Rank" %}')
    assert 'tabindex="0"' in html and TERMS["rank"] in html
    with pytest.raises(KeyError):
        drawn('{% term "no such term" %}')


def test_figures_are_written_one_way() -> None:
    html = drawn(
        "{{ a|signed }} {{ b|signed }} {{ c|count }} {{ d|file_size }} {{ e|percent }} {{ f|duration }}",  # noqa: E501
        a=0.523,
        b=-0.0001,
        c=1234,
        d=118_400,
        e=0.8449,
        f=200,
    )
    assert html == "+0.52 0.00 1.2k 118 kB 84 % 3 min"
    sizes = [0, 999, 1000, 999_499, 999_500, 15_000_000]
    assert [drawn("{{ n|file_size }}", n=n) for n in sizes] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "999 kB",
        "1.0 MB",
        "15 MB",
    ]


def test_numbers_that_are_none_are_said_in_words() -> None:
    """Workers keep what is infinite as a very large number."""
    wanted = {"nan": "not a number", "inf": "∞", "-1e9": "\N{MINUS SIGN}∞", "-0.001": "0.00"}
    assert {each: drawn("{{ n|number }}", n=float(each)) for each in wanted} == wanted


def test_times_are_relative_with_the_exact_one_on_hover() -> None:
    when = timezone.now() - timezone.timedelta(hours=3)
    html = drawn("{% ago when %}", when=when)
    assert "3 hours ago" in html
    assert f"{when:%B %Y}" in html and "UTC" in html


# --- Markdown -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        '<img src=x onerror="alert(1)">',
        "[click](javascript:alert(1))",
        "[click](data:text/html;base64,PHNjcmlwdD4=)",
        "![pixel](https://tracker.example/p.png)",
        '<p style="position:fixed">over everything</p>',
        "[a]: javascript:alert(1)\n\n[a]",
        "<javascript:alert(1)>",
    ],
)
def test_markdown_lets_nothing_harmful_through(text: str) -> None:
    html = drawn("{{ text|markdown }}", text=text)
    elements = re.findall(r"<([^>]*)>", html)
    assert not [e for e in elements if re.match(r"script|img|iframe|style", e)]
    assert not [e for e in elements if re.search(r"\son\w+=|style=|javascript:|data:", e)]


def test_markdown_keeps_what_a_card_needs() -> None:
    card = "---\nlicense: mit\n---\n# Title\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n[paper](https://arxiv.org/abs/2307.13269)\n"
    html = drawn("{{ text|markdown }}", text=card)
    assert "license" not in html
    assert "<h2>Title</h2>" in html and "<h1>" not in html
    assert "<td>1</td>" in html
    assert 'href="https://arxiv.org/abs/2307.13269"' in html and "nofollow" in html


@pytest.mark.parametrize("heading", ["# past-tense", "## Past-Tense", "# ada/past-tense"])
def test_a_card_does_not_repeat_the_name_that_stands_above_it(heading: str) -> None:
    html = drawn("{{ text|markdown:'past-tense' }}", text=f"{heading}\n\nWhat it does.\n")
    assert html.strip() == "<p>What it does.</p>"
    other = drawn("{{ text|markdown:'past-tense' }}", text="# What it does\n")
    assert "<h2>What it does</h2>" in other


def test_a_text_too_long_for_a_page_is_cut_and_says_so() -> None:
    html = drawn("{{ text|markdown }}", text="word " * 20_000)
    assert len(html) < 40_000
    assert "the rest is in the file" in html
