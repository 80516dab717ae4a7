"""A composed adapter as a download; pages and API answer with it."""

from django.http import HttpRequest, StreamingHttpResponse

from composer import artifacts, publishing, recipe_import
from composer.models import Recipe, Search
from hub_site.pages import site_address


def adapter_zip(
    request: HttpRequest, recipe: Recipe, search: Search | None = None
) -> StreamingHttpResponse:
    publishing.refuse_withdrawn(recipe, request.user)
    publishing.refuse_closed(recipe, request.user)
    recipe_import.named_by(recipe, request.user)
    chunks = artifacts.zip_adapter(recipe, search, site=site_address(request))
    response = StreamingHttpResponse(chunks, content_type="application/zip")
    name = artifacts.zip_name(recipe)
    response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    return response
