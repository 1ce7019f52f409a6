"""What all records share: frozen, JSON-able, nothing unknown, nothing that is no number."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """Base of all records: frozen, unknown keys refused, NaN and infinity refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Document(Record):
    """Base of records that are files of their own: their first key names their schema."""

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)
