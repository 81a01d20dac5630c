"""Verifies, backs up and restores all files of a set of studies."""

from medsam2_atlas.archive.backup import Backup, back_up
from medsam2_atlas.archive.findings import Finding
from medsam2_atlas.archive.manifest import Entry, Snapshot
from medsam2_atlas.archive.place import Place
from medsam2_atlas.archive.restoring import Restored, restore
from medsam2_atlas.archive.vault import IDENTITY, Vault
from medsam2_atlas.archive.verification import Verification, verify, verify_backup

__all__ = [
    "IDENTITY",
    "Backup",
    "Entry",
    "Finding",
    "Place",
    "Restored",
    "Snapshot",
    "Vault",
    "Verification",
    "back_up",
    "restore",
    "verify",
    "verify_backup",
]
