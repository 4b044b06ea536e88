"""The journal on disk: what a peer that starts again knows of its lives before. `open_journal` is the way in."""

from .sqlite import SqliteJournal as SqliteJournal
from .sqlite import open_journal as open_journal
