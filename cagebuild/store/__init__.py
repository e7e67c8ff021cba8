"""The store: content-addressed outputs and step results on local disk."""

from cagebuild.store.local import DamagedBlobError, Store
from cagebuild.store.records import Blob, Result

__all__ = ["Blob", "DamagedBlobError", "Result", "Store"]
