"""Django finds an app's models here; each lives in the file of its subject."""

from modules.models.community import (
    Collection,
    CollectionItem,
    Download,
    Like,
    ModerationEvent,
    Report,
)
from modules.models.imports import HubOrigin, Import
from modules.models.library import BaseModel, FacetCounts, LoraModule, Tag, TagAlias
from modules.models.repos import (
    Blob,
    Commit,
    CommitFile,
    Grant,
    OldAddress,
    Ref,
    Repo,
    UploadTicket,
)

__all__ = [
    "BaseModel",
    "Blob",
    "Collection",
    "CollectionItem",
    "Commit",
    "CommitFile",
    "Download",
    "FacetCounts",
    "Grant",
    "HubOrigin",
    "Import",
    "Like",
    "LoraModule",
    "ModerationEvent",
    "OldAddress",
    "Ref",
    "Repo",
    "Report",
    "Tag",
    "TagAlias",
    "UploadTicket",
]
