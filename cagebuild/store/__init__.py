"""The store: content-addressed outputs and step results on local disk."""

from cagebuild.store.local import DamagedBlobError, Store
from cagebuild.store.records import Blob, Result, Run
from cagebuild.store.session import Session

__all__ = ["Blob", "DamagedBlobError", "Result", "Run", "Session", "Store"]
