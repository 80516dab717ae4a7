"""A machine asks the API whatever its OpenAPI document allows, and more: no answer is our fault."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle, product
from typing import Any

import hypothesis
import pytest
import schemathesis
from django.core.signals import request_finished, request_started
from django.db import close_old_connections, transaction
from hypothesis import HealthCheck, Phase
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode, checks

from composer import publishing, sharing
from composer.models import FewShotTask
from hub_site.accounts import tokens
from hub_site.accounts.models import User
from hub_site.wsgi import application
from modules.community import collections
from modules.models import LoraModule
from tests.composer import finished

pytestmark = [pytest.mark.slow, pytest.mark.django_db]
EXAMPLES = 12  # requests for each operation, each visitor and each mode
HELD = [
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
]


@pytest.fixture
def known(
    lora_modules: list[LoraModule], task: FewShotTask, alice: User, settings: Any
) -> dict[str, list[dict[str, str]]]:
    """By the names of an address's parameters: what is there to be found."""
    settings.THROTTLES = dict.fromkeys(settings.THROTTLES)
    settings.HUB_ENDPOINT = "http://127.0.0.1:9"  # nobody answers there
    sharing.share(task, user=alice)
    done, waiting = finished.start(task, alice), finished.start(task, alice, seed=5)
    recipe = publishing.publish(search=finished.finish(done), user=alice, title="Opposites")
    things = collections.create(owner=alice.namespace, title="Things")
    for module in lora_modules[:2]:
        collections.add(things, module)
    module = lora_modules[0].repo
    of_module = {"owner": module.owner.name, "name": module.name}
    return {
        "modules": [of_module],
        "collections": [
            {
                "owner": "alice",
                "slug": things.name,
                "module_owner": of_module["owner"],
                "module_name": of_module["name"],
            }
        ],
        "tasks": [{"id": str(task.pk)}],
        "jobs": [{"id": str(done.pk)}, {"id": str(waiting.pk)}],
        "recipes": [{"digest": recipe.digest}],
    }


@pytest.fixture(autouse=True)
def _one_connection() -> Iterator[None]:
    """As Django does it for its own test client: the end of a request closes no connection."""
    signals = (request_started, request_finished)
    for signal in signals:
        signal.disconnect(close_old_connections)
    yield
    for signal in signals:
        signal.connect(close_old_connections)


@pytest.fixture
def headers(request: pytest.FixtureRequest, alice: User) -> dict[str, str]:
    if request.param == "nobody":
        return {}
    return {"Authorization": f"Bearer {tokens.create_token(alice, name='t', scope='write')[1]}"}


def operations() -> Iterator[Any]:
    schema = schemathesis.openapi.from_wsgi("/api/schema/?format=json", application)
    for found in schema.get_all_operations():
        yield found.ok()


@pytest.mark.parametrize("headers", ["nobody", "an account"], indirect=True)
def test_no_request_that_the_schema_allows_is_our_fault(
    headers: dict[str, str], known: dict[str, list[dict[str, str]]]
) -> None:
    every, faults = list(operations()), []
    assert len(every) > 30
    for operation, mode in product(every, GenerationMode):
        there = known.get(operation.path.split("/")[3], [])
        try:
            ask(operation, mode, headers, there)
        except Unsatisfiable:  # nothing can be wrong with a request that says nothing
            assert mode is GenerationMode.NEGATIVE
        except (Exception, BaseExceptionGroup) as error:  # all of them are told at the end
            faults.append(f"{operation.label}: {error}")
    assert faults == [], "\n\n".join(faults)


def ask(
    operation: Any, mode: GenerationMode, headers: dict[str, str], there: list[dict[str, str]]
) -> None:
    """With what the document allows, or with what it forbids. Nothing that is done stays, so each
    request finds the same site."""
    turns = cycle([None, *there])

    @hypothesis.seed(1)
    @hypothesis.settings(
        max_examples=EXAMPLES,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
    def one(case: Any) -> None:
        if names := next(turns):
            case.path_parameters = {**case.path_parameters, **_of(case, names)}
        with transaction.atomic():
            response = case.call(headers=headers)
            transaction.set_rollback(True)
        case.validate_response(response, checks=HELD)

    one()


def _of(case: Any, names: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in names.items() if name in case.path_parameters}
