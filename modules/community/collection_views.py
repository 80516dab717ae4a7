"""The pages of collections: the list, one collection, and what its owner does with it."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from django.contrib import messages
from django.db.models import Count, Q
from django.http import HttpRequest, HttpResponse, QueryDict
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils.http import urlencode
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from composer.engine.errors import CommonsError
from modules.community import collections
from modules.community.forms import CollectionForm, NoteForm
from modules.community.views import has_account, sign_in_first
from modules.finding import keyset
from modules.models import Collection, CollectionItem, LoraModule

View = Callable[..., HttpResponse]
MOVES = {"top": -collections.MOST_ITEMS, "up": -1, "down": 1}


def _with_account(view: View) -> View:
    """Whoever is not signed in comes back to the list of collections."""

    @wraps(view)
    def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        if not has_account(request):
            is_page = request.method in ("GET", "HEAD")
            back = request.get_full_path() if is_page else reverse("modules:collections")
            return sign_in_first(request, back)
        return view(request, *args, **kwargs)

    return guarded


def _sent(request: HttpRequest) -> QueryDict | None:
    return request.POST if request.method == "POST" else None


def _own(request: HttpRequest, owner: str, slug: str) -> Collection:
    return get_object_or_404(Collection.objects.editable_by(request.user).named(owner, slug))


def _own_item(request: HttpRequest, owner: str, slug: str, pk: int) -> CollectionItem:
    found = _own(request, owner, slug)
    return get_object_or_404(found.items.select_related("lora_module__repo__owner"), pk=pk)


@require_safe
def collection_list(request: HttpRequest) -> HttpResponse:
    found = Collection.objects.select_related("owner")
    shown = Count("items", filter=Q(items__lora_module__is_listed=True))
    others = found.listed()
    if request.user.is_authenticated:
        others = others.exclude(owner__user=request.user)  # their own stand above
    page = keyset.cut(
        others.annotate(items_count=shown),
        keyset.Order("updated_at"),
        cursor=request.GET.get("after", ""),
    )
    mine = found.editable_by(request.user).annotate(items_count=Count("items"))
    return render(request, "modules/collections.html", {"page": page, "mine": mine})


@require_safe
def collection(request: HttpRequest, owner: str, slug: str) -> HttpResponse:
    found = get_object_or_404(Collection.objects.visible_to(request.user).named(owner, slug))
    items = collections.shown_items(found, request.user)
    after = request.GET.get("after", "")
    bases = collections.bases(items)
    context = {
        "collection": found,
        "page": keyset.cut(items, collections.BY_POSITION, after),
        "after": after,
        "count": sum(count for _, count in bases),
        "is_owner": Collection.objects.editable_by(request.user).filter(pk=found.pk).exists(),
        "base_models": bases,
    }
    return render(request, "modules/collection.html", context)


@require_http_methods(["GET", "HEAD", "POST"])
@_with_account
def collection_new(request: HttpRequest) -> HttpResponse:
    """A new collection; `?module=owner/name` puts that module in it."""
    module = _module(request, request.POST.get("module") or request.GET.get("module") or "")
    form, status = CollectionForm(_sent(request)), 200
    if request.method == "POST":
        status = 422
        if form.is_valid() and (made := _create(request, form)):
            if module is not None:
                collections.add(made, module)
            return redirect(made)
    context = {"form": form, "module": module, "most": collections.MOST_ITEMS}
    return render(request, "modules/collection_form.html", context, status=status)


def _create(request: HttpRequest, form: CollectionForm) -> Collection | None:
    namespace = getattr(request.user, "namespace", None)
    if namespace is None:
        form.add_error(None, "Your account has no name of its own here, so it owns no collections.")
        return None
    try:
        return collections.create(owner=namespace, **form.cleaned_data)
    except CommonsError as error:
        form.add_error(None, error.user_message)
        return None


@require_http_methods(["GET", "HEAD", "POST"])
@_with_account
def collection_edit(request: HttpRequest, owner: str, slug: str) -> HttpResponse:
    found = _own(request, owner, slug)
    start = {name: getattr(found, name) for name in CollectionForm.base_fields}
    form, status = CollectionForm(_sent(request), initial=start), 200
    if request.method == "POST":
        status = 422
        if form.is_valid():
            collections.change(found, **form.cleaned_data)
            return redirect(found)
    context = {"form": form, "collection": found, "most": collections.MOST_ITEMS}
    return render(request, "modules/collection_form.html", context, status=status)


@require_http_methods(["GET", "HEAD", "POST"])
@_with_account
def collection_delete(request: HttpRequest, owner: str, slug: str) -> HttpResponse:
    found = _own(request, owner, slug)
    if request.method == "POST":
        found.delete()
        messages.success(request, f"“{found}” is deleted. Its modules are still here.")
        return redirect("modules:collections")
    return render(request, "modules/collection_delete.html", {"collection": found})


@require_POST
@_with_account
def collection_item(request: HttpRequest, owner: str, slug: str, pk: int) -> HttpResponse:
    """The buttons beside a module in one's own collection: `do` is a move, out or note."""
    item = _own_item(request, owner, slug, pk)
    do = request.POST.get("do")
    if do in MOVES:
        collections.move(item, MOVES[do])
    elif do == "out":
        collections.take_out(item)
        messages.success(request, f"{item.lora_module} is taken out.")
    elif do == "note":
        form = NoteForm(request.POST)
        if not form.is_valid():
            messages.error(request, f"The note was not kept: {form.errors['note'][0]}")
        else:
            collections.set_note(item, form.cleaned_data["note"])
    after = urlencode({"after": request.POST["after"]}) if request.POST.get("after") else ""
    page = item.collection.get_absolute_url() + (f"?{after}" if after else "")
    return redirect(page + (f"#item-{item.pk}" if item.pk and do != "top" else ""))


@require_POST
def collect(request: HttpRequest, owner: str, name: str) -> HttpResponse:
    """From a module's page into one of one's collections: `collection` is its name."""
    visible = LoraModule.objects.visible_to(request.user).named(owner, name)
    module = get_object_or_404(visible.select_related("repo__owner"))
    if not has_account(request):
        return sign_in_first(request, module.get_absolute_url())
    wanted = request.POST.get("collection", "")
    if not wanted:
        return redirect(f"{reverse('modules:collection_new')}?module={module}")
    found = get_object_or_404(collections.of_user(request.user), name=wanted.replace("\0", ""))
    try:
        is_new = collections.add(found, module)
    except CommonsError as error:
        messages.error(request, error.user_message)
    else:
        said = f"It is in “{found}” now." if is_new else f"It was in “{found}” already."
        messages.success(request, said)
    return redirect(module)


def _module(request: HttpRequest, text: str) -> LoraModule | None:
    owner, _, name = text.partition("/")
    return LoraModule.objects.visible_to(request.user).named(owner, name).first()
