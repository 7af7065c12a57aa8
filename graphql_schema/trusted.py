"""Trusted documents: those that a deployment's own clients were built with, known by an id instead of their text.

Clients name one as Apollo's (`extensions.persistedQuery.sha256Hash`) or as the GraphQL-over-HTTP draft has it
(`documentId`). None is ever learnt from a client: what strangers can add to has to be bounded, and evicts what is ours.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
from graphql import GraphQLError

from app.settings import SettingsError
from graphql_schema.requests import PERSISTED

VARIABLE: Final = "HEIRLOOM_TRUSTED_DOCUMENTS"
APOLLO: Final = "apollo-persisted-query-manifest"
NAME: Final = re.compile(r"\b(?:query|mutation|subscription)\s+([_A-Za-z][_0-9A-Za-z]{0,99})")
PREFIX: Final = "sha256:"  # of a `documentId` that is the document's hash


class ApolloOperation(msgspec.Struct):
    id: str
    body: str


class ApolloManifest(msgspec.Struct):
    operations: list[ApolloOperation]


@dataclass(frozen=True, slots=True)
class TrustedDocuments:
    """`only`: nothing else is executed."""

    by_id: Mapping[str, str] = field(default_factory=dict)
    only: bool = False
    texts: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "texts", frozenset(self.by_id.values()))

    def text(self, query: str | None, extensions: Mapping[str, Any] | None) -> str | None:
        """The document that is meant, None where none is named. Raises GraphQLError for what is not to be had.

        With a text beside it an id says nothing new: so clients send both after a PERSISTED_QUERY_NOT_FOUND.
        """
        if not query and (document_id := _named(extensions)) is not None:
            query = self._known(document_id)
        if self.only and query is not None and query not in self.texts:
            raise GraphQLError("Only trusted documents are executed here.", extensions={"code": "DOCUMENT_NOT_TRUSTED"})
        return query

    def names(self) -> set[str]:
        """Of their operations, for metrics: as they are written, whether or not they can be executed."""
        return {name for text in self.texts for name in NAME.findall(text)}

    def _known(self, document_id: str) -> str:
        found = self.by_id.get(document_id) or self.by_id.get(document_id.removeprefix(PREFIX))
        if found is not None:
            return found
        # The messages are Apollo's too: clients look at either.
        if not self.by_id:
            raise GraphQLError("PersistedQueryNotSupported", extensions={"code": "PERSISTED_QUERY_NOT_SUPPORTED"})
        raise GraphQLError("PersistedQueryNotFound", extensions={"code": "PERSISTED_QUERY_NOT_FOUND"})


TRUST_IN_NONE: Final = TrustedDocuments()


def _named(extensions: Mapping[str, Any] | None) -> str | None:
    persisted = (extensions or {}).get(PERSISTED)
    return persisted["sha256Hash"] if persisted else None  # of this shape: see requests.request_data


def load(path: Path | None, *, only: bool) -> TrustedDocuments:
    """From a manifest or a folder of them, and of `.graphql` files. Raises SettingsError with what is wrong."""
    if path is None:
        if only:
            raise SettingsError(f"{VARIABLE} must be set when HEIRLOOM_TRUSTED_ONLY is on.")
        return TRUST_IN_NONE
    try:
        found = dict(_folder(path) if path.is_dir() else _file(path))
    except (OSError, ValueError) as error:
        raise SettingsError(f"{VARIABLE}: {path} can't be read: {error}.") from error
    if not found:
        raise SettingsError(f"{VARIABLE}: {path} has no documents.")
    return TrustedDocuments(found, only)


def _folder(path: Path) -> Iterator[tuple[str, str]]:
    for file in sorted(path.iterdir()):
        if file.suffix in {".json", ".graphql", ".gql"}:
            yield from _file(file)


def _file(path: Path) -> Iterator[tuple[str, str]]:
    """Ids and documents. A document by itself is known by its hash."""
    content = path.read_bytes()
    if path.suffix != ".json":
        yield hashlib.sha256(content).hexdigest(), content.decode()
        return
    try:
        yield from _manifest(msgspec.json.decode(content)).items()
    except msgspec.MsgspecError as error:
        raise ValueError(f"{path.name}: {error}") from error


def _manifest(raw: Any) -> dict[str, str]:
    """Apollo's, or an object of documents by their ids, as Relay, urql and GraphQL Code Generator write it."""
    if isinstance(raw, dict) and raw.get("format") == APOLLO:
        return {each.id: each.body for each in msgspec.convert(raw, ApolloManifest).operations}
    return msgspec.convert(raw, dict[str, str])
