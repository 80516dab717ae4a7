"""What visitors do on a module's page besides reading: like it, report it."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.contrib.auth.views import redirect_to_login
from django.db.models import F
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_http_methods, require_POST, require_safe
from django_htmx.http import HttpResponseClientRedirect

from composer.engine.errors import CommonsError
from hub_site.addresses import address_of
from hub_site.pages import part_id
from modules.community import likes, moderation
from modules.community.forms import ReportForm
from modules.finding import keyset
from modules.models import LoraModule, Repo
from modules.querysets import LoraModuleQuerySet

LIKE_PART = "modules/_like.html"


def has_account(request: HttpRequest) -> bool:
    return request.user.is_authenticated and not request.user.is_guest


def sign_in_first(request: HttpRequest, back: str) -> HttpResponse:
    """To the sign-in page, and from there to the page that the button stood on."""
    answer = redirect_to_login(back)
    if request.headers.get("HX-Request"):
        return HttpResponseClientRedirect(answer.url)
    return answer


@require_POST
def like(request: HttpRequest, owner: str, name: str) -> HttpResponse:
    """`want=1` likes, `want=0` takes it back, and without it the like is turned over."""
    visible = LoraModule.objects.visible_to(request.user).named(owner, name)
    module = get_object_or_404(visible.select_related("repo__owner"))
    if not has_account(request):
        return sign_in_first(request, module.get_absolute_url())
    if request.POST.get("want") in ("0", "1"):
        likes.of_modules.set(module, request.user, request.POST["want"] == "1")
    else:
        likes.of_modules.toggle(module, request.user)
    if request.headers.get("HX-Target") == part_id(LIKE_PART):
        context = {"module": module, "likes_it": likes.of_modules.has(module, request.user)}
        return render(request, LIKE_PART, context)
    return redirect(module)


@require_safe
def my_likes(request: HttpRequest) -> HttpResponse:
    if not has_account(request):
        return sign_in_first(request, request.get_full_path())
    liked = LoraModule.objects.visible_to(request.user).filter(liked__user=request.user)
    page = keyset.cut(
        liked.annotate(liked_at=F("liked__created_at")),
        keyset.Order("liked_at"),
        cursor=request.GET.get("after", ""),
        load=LoraModuleQuerySet.for_cards,
    )
    return render(request, "modules/likes.html", {"page": page})


@require_http_methods(["GET", "HEAD", "POST"])
def report(request: HttpRequest, owner: str, name: str) -> HttpResponse:
    repo = get_object_or_404(Repo.objects.visible_to(request.user).named(owner, name))
    return answer_report(request, "modules/report.html", {"repo": repo}, repo, repo=repo)


def answer_report(
    request: HttpRequest, template: str, context: dict[str, Any], back: Any, **reported: Any
) -> HttpResponse:
    """The form of a report, and what comes of it. `reported` is what `moderation.report` takes."""
    form = ReportForm(request.POST if request.method == "POST" else None)
    status = 200
    if request.method == "POST":
        status = 422
        if form.is_valid():
            try:
                _, is_new = moderation.report(
                    user=request.user,
                    address=address_of(request),
                    reason=form.cleaned_data["reason"],
                    text=form.cleaned_data["text"],
                    **reported,
                )
            except CommonsError as error:
                form.add_error(None, error.user_message)
                status = getattr(error, "status", 422)
            else:
                thanks = "Thank you. A moderator will look at it."
                again = "You have reported it already; a moderator will look at it."
                messages.success(request, thanks if is_new else again)
                return redirect(back)
    return render(request, template, {**context, "back": back, "form": form}, status=status)
