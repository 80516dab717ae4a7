"""Lists cut as on the pages: the last page costs what the first one costs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from django.db.models import QuerySet
from rest_framework import pagination
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.utils.urls import replace_query_param

from modules.finding import keyset

MOST_ROWS = 100


class KeysetPagination(pagination.BasePagination):
    """{"next", "previous", "results"}: follow the links; a page's number would cost a count."""

    def paginate_queryset(
        self, queryset: QuerySet, request: Request, view: Any = None
    ) -> list[Any]:
        size = request.query_params.get("page_size", "")
        size = min(max(int(size), 1), MOST_ROWS) if re.fullmatch("[0-9]{1,9}", size) else 50
        cursor = request.query_params.get("after", "")
        self.page = keyset.cut(queryset, view.order, cursor, size, load=view.load)
        self.address = request.build_absolute_uri()
        return self.page.items

    def get_paginated_response(self, data: Any) -> Response:
        return Response(
            {
                "next": self._link(self.page.next),
                "previous": self._link(self.page.previous),
                "results": data,
            }
        )

    def get_paginated_response_schema(self, schema: Mapping[str, Any]) -> dict[str, Any]:
        link = {"type": "string", "format": "uri", "nullable": True}
        return {
            "type": "object",
            "required": ["results"],
            "properties": {"next": link, "previous": link, "results": schema},
        }

    def get_schema_operation_parameters(self, view: Any) -> list[dict[str, Any]]:
        whole = {"type": "integer", "minimum": 1, "maximum": MOST_ROWS}
        return [
            {"name": "after", "in": "query", "schema": {"type": "string"}},
            {"name": "page_size", "in": "query", "schema": whole},
        ]

    def _link(self, cursor: str) -> str | None:
        return replace_query_param(self.address, "after", cursor) if cursor else None
