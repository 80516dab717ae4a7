"""Pages of shared tasks: the list, and what their owners do to share them and take them back."""

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.contrib.auth.views import redirect_to_login
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from composer import sharing
from composer.engine.errors import CommonsError
from composer.models import Example, FewShotTask
from composer.views.request import page_of
from modules.community.views import answer_report

SORTS = {"new": "newest", "used": "most used"}


def _own(request: HttpRequest, pk: str) -> FewShotTask:
    own = FewShotTask.objects.editable_by(request.user)
    return get_object_or_404(own.for_cards(), pk=pk)


@require_safe
def shared(request: HttpRequest) -> HttpResponse:
    found = FewShotTask.objects.listed().for_cards()
    owner = request.GET.get("owner", "").replace("\0", "")[:200]
    if owner:
        found = found.of_owner(owner)
    sort_by = "used" if request.GET.get("sort") == "used" else "new"
    page = page_of(request, found.most_used_first() if sort_by == "used" else found)
    context = {
        "page": page,
        "tasks": page.object_list,
        "owner": owner,
        "sorts": SORTS,
        "sort_by": sort_by,
    }
    return render(request, "composer/shared.html", context)


@require_http_methods(["GET", "HEAD", "POST"])
@login_required
def task_share(request: HttpRequest, pk: str) -> HttpResponse:
    """What becomes public, and the button that does it."""
    found = _own(request, pk)
    refused, status = sharing.why_not(found, request.user), 200
    if request.method == "POST":
        try:
            sharing.share(found, user=request.user)
        except CommonsError as error:
            refused, status = error.user_message, 422
        else:
            messages.success(request, f"“{found}” is public now: anybody can see and use it.")
            return redirect(found)
    context = {
        "task": found,
        "refused": refused,
        "shots": found.pairs(Example.SHOT),
        "held_out": found.pairs(Example.HELD_OUT),
    }
    return render(request, "composer/task_share.html", context, status=status)


@require_POST
def task_stop_sharing(request: HttpRequest, pk: str) -> HttpResponse:
    if not request.user.is_authenticated:
        return redirect_to_login(reverse("composer:task_share", args=[pk]))
    found = _own(request, pk)
    sharing.stop_sharing(found)
    messages.success(request, f"“{found}” is only yours again.")
    return redirect(found)


@require_http_methods(["GET", "HEAD", "POST"])
def task_report(request: HttpRequest, pk: str) -> HttpResponse:
    visible = FewShotTask.objects.shared().visible_to(request.user).select_related("owner")
    found = get_object_or_404(visible, pk=pk)
    name = f"the task “{found}” by {found.owner}"
    return answer_report(
        request, "composer/task_report.html", {"task": found}, found,
        repo=None, name=name, path=found.get_absolute_url(),
    )  # fmt: skip
