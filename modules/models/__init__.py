"""Django finds an app's models here; each lives in the file of its subject."""

from modules.models.community import (
    Collection,
    CollectionItem,
    Download,
    Like,
    ModerationEvent,
    Report,
)
from modules.models.gate import AccessRequest
from modules.models.hub import BlobOnHub, HubAccount, HubHome, ModuleOnHub
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
    "AccessRequest",
    "BaseModel",
    "Blob",
    "BlobOnHub",
    "Collection",
    "CollectionItem",
    "Commit",
    "CommitFile",
    "Download",
    "FacetCounts",
    "Grant",
    "HubAccount",
    "HubHome",
    "HubOrigin",
    "Import",
    "Like",
    "LoraModule",
    "ModerationEvent",
    "ModuleOnHub",
    "OldAddress",
    "Ref",
    "Repo",
    "Report",
    "Tag",
    "TagAlias",
    "UploadTicket",
]
