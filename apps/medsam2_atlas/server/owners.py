"""What belongs to whom: jobs with their results, sessions, and what clients add to a version of a label map.

People use what they made themselves; reviewers and admins use everything. Ids are compared, never names, which two people may
share. What a person may not use does not exist for that person (404). Where nobody logs in, everybody is an admin.
"""

from __future__ import annotations

from server.people import LOCAL, User


def owner_id(user: User) -> str:
    """Returns the id under which something belongs to a user; empty where nobody logs in: then no limit per person applies."""
    return "" if user.id == LOCAL.id else user.id


def may_use(user: User, owner: str) -> bool:
    """Returns whether a user may use and remove what belongs to an owner; what has no owner is for reviewers and admins."""
    return user.may("reviewer") or (bool(owner) and owner == user.id)
