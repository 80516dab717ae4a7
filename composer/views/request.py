"""What every page asks of a request: who acts, where the site is, which page of a list."""

from collections.abc import Callable
from functools import wraps

from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import ValidationError
from django.core.paginator import Page, Paginator
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.urls import reverse
from django.views.decorators.http import require_POST

from composer.models import FewShotTask, Recipe, Search
from hub_site.accounts import guests
from hub_site.accounts.models import User
from hub_site.jobs.models import Job

PER_PAGE = 20


def visitor(request: HttpRequest) -> User:
    """Who acts: the one signed in, or a guest made for this session."""
    return request.user if request.user.is_authenticated else guests.start_guest(request)


def page_of(request: HttpRequest, rows: QuerySet) -> Page:
    return Paginator(rows, PER_PAGE).get_page(request.GET.get("page"))


def find_task(request: HttpRequest, pk: str) -> FewShotTask:
    visible = FewShotTask.objects.visible_to(request.user).for_cards()
    return get_object_or_404(visible, pk=pk)


def find_search(request: HttpRequest, pk: str) -> Search:
    return get_object_or_404(Search.objects.visible_to(request.user).for_page(), pk=pk)


def find_done(request: HttpRequest, pk: str) -> Search:
    """A search whose adapter is there."""
    search = find_search(request, pk)
    if search.recipe is None or search.recipe.adapter_id is None:
        raise Http404
    return search


def find_recipe(request: HttpRequest, digest: str) -> Recipe:
    found = Recipe.objects.visible_to(request.user).for_cards()
    return get_object_or_404(found.select_related("published_search__job"), pk=digest)


def acts_on_job(view: Callable[[HttpRequest, str], HttpResponse]) -> Callable[..., HttpResponse]:
    """A button on a job's page. Whoever must sign in first comes back to that page: the button's
    own address only takes posts."""

    @require_POST
    @wraps(view)
    def guarded(request: HttpRequest, pk: str) -> HttpResponse:
        if not request.user.is_authenticated:
            return redirect_to_login(reverse("composer:job", args=[pk]))
        return view(request, pk)

    return guarded


def job_named(request: HttpRequest, parameter: str, kind: str, search: Search) -> Job | None:
    """The visitor's own question about a result that the address names."""
    if not (pk := request.GET.get(parameter)):
        return None
    jobs = Job.objects.filter(kind=kind, user=request.user, params__search=str(search.pk))
    try:
        return jobs.filter(pk=pk).first()
    except ValidationError:  # not a uuid
        return None
