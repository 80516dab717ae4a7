import io
import json
import zipfile
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from composer import services, task_writing
from composer.engine.examples import Example
from composer.models import FewShotTask, Search
from hub_site.accounts.models import User
from hub_site.jobs import queue
from hub_site.jobs.models import SCHEMA, Job, JobEvent, Worker
from modules.models import BaseModel
from tests.composer import finished

STATUS = {"HX-Request": "true", "HX-Target": "job-status"}


def url_of(name: str, search: Search) -> str:
    return reverse(f"composer:{name}", args=[search.pk])


@pytest.fixture
def waiting(client: Client, alice: User, task: FewShotTask) -> Search:
    client.force_login(alice)
    return finished.start(task, alice)


@pytest.fixture
def done(waiting: Search) -> Search:
    return finished.finish(waiting)


# --- live --------------------------------------------------------------------------------------


def test_a_waiting_job_says_so_and_asks_again(client: Client, waiting: Search) -> None:
    answer = client.get(waiting.get_absolute_url())
    assert answer.status_code == 200
    assert "it is the next one to start" in answer.text
    assert f'hx-get="{waiting.get_absolute_url()}"' in answer.text
    assert "You may close this page" in answer.text


def test_it_says_how_many_jobs_are_before_it(
    client: Client, alice: User, waiting: Search, task: FewShotTask
) -> None:
    second = finished.start(task, alice)
    assert "1 job before this one" in client.get(second.get_absolute_url()).text


def test_it_says_when_no_worker_is_there(client: Client, waiting: Search) -> None:
    assert "No worker is running" in client.get(waiting.get_absolute_url()).text
    Worker.objects.create(name="w", host="here", pid=1, seen_at=timezone.now())
    assert "No worker is running" not in client.get(waiting.get_absolute_url()).text


def test_a_running_job_shows_loss_weights_and_speed(client: Client, waiting: Search) -> None:
    finished.add_generations(waiting)
    search = finished.run(waiting)
    answer = client.get(search.get_absolute_url(), headers=STATUS)
    assert "<html" not in answer.text
    assert "Generation 2" in answer.text
    assert "best loss 1.20" in answer.text
    assert 'id="live-blend"' in answer.text
    assert "10.0" in answer.text  # 15 evaluations in 1.5 seconds
    assert all(each["repo"] in answer.text for each in search.spec["ingredients"])


def test_without_javascript_the_page_asks_again_by_itself(client: Client, waiting: Search) -> None:
    assert '<meta http-equiv="refresh"' in client.get(waiting.get_absolute_url()).text


@pytest.mark.parametrize("state", ["failed", "cancelled"])
def test_polling_stops_when_the_job_is_over(client: Client, waiting: Search, state: str) -> None:
    search = finished.end(waiting, state)
    answer = client.get(search.get_absolute_url())
    assert "hx-get" not in answer.text
    assert 'http-equiv="refresh"' not in answer.text
    assert "Cancel…" not in answer.text
    assert client.get(search.get_absolute_url(), headers=STATUS).headers["HX-Refresh"] == "true"


def test_when_it_is_done_the_browser_loads_the_result(client: Client, done: Search) -> None:
    answer = client.get(done.get_absolute_url(), headers=STATUS)
    assert answer.headers["HX-Refresh"] == "true"


@pytest.mark.parametrize(
    ("code", "said"),
    [("our_fault", "That is our fault, not yours."), ("nothing_found", "has to change")],
)
def test_a_failure_says_what_whose_fault_and_what_to_do(
    client: Client, waiting: Search, code: str, said: str
) -> None:
    search = finished.end(waiting, "failed", error_code=code, error_message="It <broke>.")
    answer = client.get(search.get_absolute_url())
    assert "It &lt;broke&gt;." in answer.text
    assert said in answer.text
    assert "Compose again" in answer.text


def test_an_interrupted_search_says_that_it_went_on(client: Client, waiting: Search) -> None:
    finished.add_generations(waiting)
    search = finished.run(waiting)
    told = [
        ("struck", "process 7 died"),
        ("released", queue.GIVING_WAY),
        ("released", queue.SHUTTING_DOWN),
    ]
    for name, reason in told:
        JobEvent.objects.create(job=search.job, fence=1, name=name, detail={"reason": reason})
    page = client.get(search.get_absolute_url()).text
    assert "interrupted twice (its worker was stopped and the process that ran it died)" in page
    assert "and went on from where it was" in page


def test_the_job_outlives_its_task(client: Client, done: Search, task: FewShotTask) -> None:
    task.delete()
    assert client.get(done.get_absolute_url()).status_code == 200


@pytest.mark.parametrize("name", ["job", "job_publish", "job_adapter"])
def test_a_job_is_its_owners_alone(client: Client, bob: User, done: Search, name: str) -> None:
    client.logout()
    assert client.get(url_of(name, done)).url.startswith("/accounts/login/")
    client.force_login(bob)
    assert client.get(url_of(name, done)).status_code == 404


@pytest.mark.parametrize("name", ["job_cancel", "job_try", "job_publish"])
def test_nobody_else_acts_on_it(client: Client, bob: User, done: Search, name: str) -> None:
    client.logout()
    assert client.post(url_of(name, done)).url.startswith("/accounts/login/")
    client.force_login(bob)
    assert client.post(url_of(name, done), {"input": "x", "title": "x"}).status_code == 404
    done.recipe.refresh_from_db()
    assert done.recipe.published_at is None


@pytest.mark.parametrize("name", ["job_cancel", "job_try"])
def test_after_signing_in_one_is_back_on_the_jobs_page(
    client: Client, done: Search, name: str
) -> None:
    client.logout()
    asked = client.post(url_of(name, done))
    assert parse_qs(urlsplit(asked.url).query) == {"next": [done.get_absolute_url()]}


@pytest.mark.parametrize("name", ["job_cancel", "job_try"])
def test_what_acts_needs_a_post(client: Client, waiting: Search, name: str) -> None:
    assert client.get(url_of(name, waiting)).status_code == 405


def test_the_page_and_the_files_do_not_take_posts(client: Client, done: Search) -> None:
    for name in ("job", "job_adapter"):
        assert client.post(url_of(name, done)).status_code == 405


# --- cancel ------------------------------------------------------------------------------------


def test_cancel_ends_a_waiting_job(client: Client, waiting: Search) -> None:
    answer = client.post(url_of("job_cancel", waiting), follow=True)
    assert "Cancelled." in answer.text
    assert Job.objects.get(pk=waiting.pk).state == "cancelled"


def test_cancel_of_a_running_job_says_that_it_is_stopping(client: Client, waiting: Search) -> None:
    search = finished.run(waiting)
    answer = client.post(url_of("job_cancel", search), follow=True)
    assert "Stopping after this generation." in answer.text


# --- result ------------------------------------------------------------------------------------


def test_the_result_opens_with_the_sentence(client: Client, done: Search) -> None:
    answer = client.get(done.get_absolute_url())
    assert '<h1 class="sentence">Cannot tell from so few: 2 of 3 right' in answer.text
    assert "2.500" in answer.text and "0.400" in answer.text
    assert "A fresh LoRA trained on the same examples" in answer.text
    assert "PeftModel.from_pretrained" in answer.text


def test_the_result_shows_how_each_module_did_alone(client: Client, done: Search) -> None:
    rows = [{"name": "demo/good", "loss": 1.25}, {"name": "demo/bad", "loss": 9.5}]
    done.evidence["screening"] = {
        "modules": rows, "mixed": 1, "refused": {"demo/dora": "It uses DoRA."},
    }  # fmt: skip
    done.evidence["search"]["loss_before"] = 2.5
    done.save(update_fields=["evidence"])
    page = client.get(done.get_absolute_url()).content.decode()
    assert "2 modules were measured on your examples" in page and "the 1 best" in page
    assert "+1.250" in page and "−7.000" in page
    assert "demo/dora: It uses DoRA." in page


def test_the_result_says_how_files_were_read_and_what_a_small_rank_cost(
    client: Client, done: Search
) -> None:
    done.evidence["load"] = [
        {
            "name": "demo/one", "used": 24, "dtypes": ["BF16"], "scalings": [2.0, 0.5],
            "padded": ["2 to 4"], "padded_layers": 6, "absent_layers": 3, "ignored": {},
        }
    ]  # fmt: skip
    done.save(update_fields=["evidence"])
    done.recipe.adapter_facts = {
        "r": 8, "exact_rank": 32, "errors": {"q": 0.25}, "mean_error": 0.25, "largest_error": 0.5,
    }  # fmt: skip
    done.recipe.save(update_fields=["adapter_facts"])
    page = client.get(done.get_absolute_url()).content.decode()
    assert "rank 2 to 4 in 6 layers" in page and "BF16" in page
    assert "cut down from rank 32 to 8" in page and "25 %" in page and "50 %" in page


def test_predictions_are_filtered_by_links(client: Client, done: Search) -> None:
    url = done.get_absolute_url()
    part = {"HX-Request": "true", "HX-Target": "predictions"}
    everything = client.get(url, headers=part)
    assert "<html" not in everything.text
    row = 'data-label="Wanted"'
    assert everything.text.count(row) == 3
    assert client.get(f"{url}?show=wrong", headers=part).text.count(row) == 1
    assert client.get(f"{url}?show=changed", headers=part).text.count(row) == 2
    assert client.get(f"{url}?show=<x>", headers=part).text.count(row) == 3


def test_a_result_without_held_out_examples_says_what_is_missing(
    client: Client, alice: User, base_model: BaseModel
) -> None:
    task = task_writing.create_task(
        user=alice, name="T", base_model=base_model, shots=[Example("big", "small")]
    )
    search = finished.finish(finished.start(task, alice))
    client.force_login(alice)
    answer = client.get(search.get_absolute_url())
    assert "Not measured" in answer.text
    assert "No answers to show" in answer.text


# --- try it ------------------------------------------------------------------------------------


def test_an_input_is_asked_of_both_models(client: Client, alice: User, done: Search) -> None:
    answer = client.post(url_of("job_try", done), {"input": "tall"})
    trial = Job.objects.get(kind=services.PREDICT)
    assert trial.params == {"search": str(done.pk), "input": "tall"}
    assert answer.url == f"{done.get_absolute_url()}?trial={trial.pk}#try-it"
    page = client.get(answer.url)
    assert "No worker is running" in page.text
    Worker.objects.create(
        name="w:1:x",
        host="w",
        pid=1,
        seen_at=timezone.now(),
        queues=["cpu"],
        memory=10**11,
        schema=SCHEMA,
    )
    page = client.get(answer.url)
    assert "Asking both models" in page.text
    # A link to the page's own address would only scroll to the fragment.
    assert f"?trial={trial.pk}&amp;at=" in page.text


def test_the_answers_come_to_the_same_place(client: Client, alice: User, done: Search) -> None:
    headers = {"HX-Request": "true", "HX-Target": "try-it"}
    first = client.post(url_of("job_try", done), {"input": "tall"}, headers=headers)
    assert 'hx-trigger="every 1s"' in first.text and "<html" not in first.text
    trial = Job.objects.get(kind=services.PREDICT)
    trial.state, trial.result = "done", {"base": "TALL-BASE", "composed": "TALL-COMPOSED"}
    trial.save()
    then = client.get(f"{done.get_absolute_url()}?trial={trial.pk}", headers=headers)
    assert "TALL-BASE" in then.text and "TALL-COMPOSED" in then.text
    assert "every 1s" not in then.text


@pytest.mark.parametrize("headers", [{}, {"HX-Request": "true", "HX-Target": "try-it"}])
def test_an_empty_input_is_refused_at_the_field(
    client: Client, done: Search, headers: dict[str, str]
) -> None:
    answer = client.post(url_of("job_try", done), {"input": ""}, headers=headers)
    assert answer.status_code == 422
    assert "This field is required." in answer.text
    assert not Job.objects.filter(kind=services.PREDICT).exists()


def test_an_unfinished_search_cannot_be_tried(client: Client, waiting: Search) -> None:
    answer = client.post(url_of("job_try", waiting), {"input": "tall"})
    assert answer.status_code == 422
    assert "no adapter to try yet" in answer.text


def test_a_trial_of_another_result_is_not_shown(
    client: Client, alice: User, task: FewShotTask, done: Search
) -> None:
    client.post(url_of("job_try", done), {"input": "a zebra"})
    trial = Job.objects.get(kind=services.PREDICT)
    other = finished.finish(finished.start(task, alice, seed=5))
    assert "a zebra" not in client.get(f"{other.get_absolute_url()}?trial={trial.pk}").text
    assert client.get(f"{other.get_absolute_url()}?trial=nonsense").status_code == 200


# --- publish and download ----------------------------------------------------------------------


def test_publishing_asks_what_becomes_public(client: Client, done: Search) -> None:
    answer = client.get(url_of("job_publish", done))
    assert "What becomes public" in answer.text and "What stays private" in answer.text
    answer = client.post(url_of("job_publish", done), {"title": "Opposites of words"})
    assert answer.url == done.recipe.get_absolute_url()
    done.recipe.refresh_from_db()
    assert done.recipe.title == "Opposites of words"
    assert not done.recipe.shows_examples
    assert client.get(url_of("job_publish", done)).url == done.recipe.get_absolute_url()


def test_a_recipe_needs_a_title(client: Client, done: Search) -> None:
    answer = client.post(url_of("job_publish", done), {"title": "", "description": "kept"})
    assert answer.status_code == 422
    assert "kept" in answer.text


def test_a_guest_is_asked_to_sign_up_before_publishing(
    client: Client, guest: User, demo_task: FewShotTask
) -> None:
    search = finished.finish(finished.start(demo_task, guest))
    client.force_login(guest)
    answer = client.post(url_of("job_publish", search), {"title": "Mine"})
    assert answer.status_code == 422
    assert "Sign up to publish" in answer.text


def test_an_unfinished_search_has_nothing_to_publish_or_download(
    client: Client, waiting: Search
) -> None:
    assert client.get(url_of("job_publish", waiting)).status_code == 404
    assert client.get(url_of("job_adapter", waiting)).status_code == 404


def test_the_adapter_comes_as_a_zip(client: Client, done: Search) -> None:
    answer = client.get(url_of("job_adapter", done))
    assert answer.headers["Content-Type"] == "application/zip"
    assert "attachment" in answer.headers["Content-Disposition"]
    archive = zipfile.ZipFile(io.BytesIO(b"".join(answer.streaming_content)))
    assert sorted(archive.namelist()) == [
        "README.md", "adapter_config.json", "adapter_model.safetensors", "recipe.json",
    ]  # fmt: skip
    assert json.loads(archive.read("recipe.json"))["id"] == done.recipe_id
    card = archive.read("README.md").decode()
    assert '"http://testserver"' in card and "127.0.0.1" not in card


def test_a_live_page_asks_the_database_the_same_however_far_it_is(
    client: Client, waiting: Search, django_assert_num_queries: Any
) -> None:
    finished.add_generations(waiting, count=3)
    search = finished.run(waiting)
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    client.get(search.get_absolute_url(), headers=STATUS)
    with CaptureQueriesContext(connection) as seen:
        client.get(search.get_absolute_url(), headers=STATUS)
    search.generations.all().delete()
    finished.add_generations(search, count=30)
    with django_assert_num_queries(len(seen)):
        client.get(search.get_absolute_url(), headers=STATUS)


def test_who_watches_is_told_in_a_few_bytes_that_nothing_has_changed(
    client: Client, waiting: Search
) -> None:
    finished.add_generations(waiting, count=3)
    search = finished.run(waiting)
    address = search.get_absolute_url()
    seen = client.get(address, headers=STATUS)
    again = client.get(address, headers={**STATUS, "If-None-Match": seen["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    Search.objects.filter(pk=search.pk).update(stage="measuring", stage_detail="uniform")
    then = client.get(address, headers={**STATUS, "If-None-Match": seen["ETag"]})
    assert then.status_code == 200 and "Measuring on the held-out examples" in then.text
    search.generations.all().delete()  # as many, after the search began again
    finished.add_generations(search, count=3)
    last = client.get(address, headers={**STATUS, "If-None-Match": then["ETag"]})
    assert last.status_code == 200 and last["ETag"] not in (seen["ETag"], then["ETag"])


def test_who_waits_is_told_when_the_queue_moves(
    client: Client, alice: User, waiting: Search
) -> None:
    other = Job.objects.create(kind=services.COMPOSE, user=alice, priority=1)
    address = waiting.get_absolute_url()

    def again() -> int:
        tag = client.get(address, headers=STATUS)["ETag"]
        return client.get(address, headers={**STATUS, "If-None-Match": tag}).status_code

    # A guess is looked at anew every ten seconds, perhaps just between the two.
    assert 304 in (again(), again())
    before = client.get(address, headers=STATUS)
    services.cancel_job(other)
    then = client.get(address, headers={**STATUS, "If-None-Match": before["ETag"]})
    assert then.status_code == 200 and "it is the next one to start" in then.text


def test_a_page_of_a_job_far_back_in_the_queue_asks_less_often(
    client: Client, alice: User, waiting: Search
) -> None:
    def trigger() -> str:
        return client.get(waiting.get_absolute_url(), headers=STATUS).text

    assert 'hx-trigger="every 1s"' in trigger()
    Job.objects.create(kind=services.COMPOSE, user=alice, priority=1)
    assert 'hx-trigger="every 2s"' in trigger()
    Job.objects.bulk_create(Job(kind=services.COMPOSE, user=alice, priority=1) for _ in range(9))
    assert "10 jobs before this one" in trigger() and 'hx-trigger="every 5s"' in trigger()


def test_all_ways_answer_side_by_side(client: Client, alice: User, task: FewShotTask) -> None:
    search = finished.finish(finished.start(task, alice))
    client.force_login(alice)
    few = client.get(search.get_absolute_url()).content.decode()
    assert "All ways side by side" in few and "Answers of all ways" not in few
    many = client.get(f"{search.get_absolute_url()}?ways=1").content.decode()
    assert "Answers of all ways" in many
    assert '<th scope="col">The same search over randomised modules</th>' in many


def test_one_held_out_example_is_enough_for_a_page(
    client: Client, task: FewShotTask, alice: User
) -> None:
    """In one of three orders the examples in the prompt had it right: no interval says more."""
    task.examples.filter(split="held_out", position__gt=0).delete()
    search = finished.finish(finished.start(task, alice))
    client.force_login(alice)
    answer = client.get(search.get_absolute_url())
    assert answer.status_code == 200
    assert "With 1 test example right answers say too little" in answer.text
