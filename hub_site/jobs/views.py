"""The operator's page: workers, queues, leases and what went wrong, live."""

from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse
from django.views.decorators.http import require_safe

from hub_site import disk
from hub_site.jobs.overview import TROUBLE, Overview
from hub_site.pages import page_or_part


@require_safe
@login_required
def operate(request: HttpRequest) -> HttpResponse:
    """For those whom an operator lets see jobs; to others there is no such page."""
    if not (request.user.is_staff and request.user.has_perm("jobs.view_job")):
        raise Http404
    context = {"now": Overview(), "disks": disk.disks(), "trouble": TROUBLE}
    return page_or_part(request, "operate/page.html", "operate/_overview.html", context)
