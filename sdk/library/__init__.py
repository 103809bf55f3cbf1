"""A folder of packs, pictures and work, with a database beside them: what servers keep between two starts.

What was acknowledged is on the disk. Files lie under random names, whatever users call things: the database knows the
names.
"""

from __future__ import annotations

from .jobs import Job
from .library import Library
from .packs import KeptPack
from .pictures import KeptPicture

__all__ = ["Job", "KeptPack", "KeptPicture", "Library"]
