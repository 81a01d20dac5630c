"""Ownership of jobs with their results, of sessions, and of the information that clients add to a version of a label map.

Annotators may use their own items; reviewers and admins may use all. Owners are compared by their ids, because two users may
have the same name. An item that a user may not use does not exist for that user (404). On a server without logins, everybody is
an admin.
"""

from __future__ import annotations

from medsam2_atlas.base.jobs import Job, JobQueue
from server.people import LOCAL, User


def owner_id(user: User) -> str:
    """Returns a user's id as an owner; empty on a server without logins, where no limit per person applies."""
    return "" if user.id == LOCAL.id else user.id


def own_jobs(queue: JobQueue, user: User) -> list[Job]:
    """Returns a user's own jobs, in the order of their submission."""
    return [job for job in queue.jobs() if job.owner == owner_id(user)]


def may_use(user: User, owner: str) -> bool:
    """Returns whether a user may use and remove an item.

    Args:
        user: the user who sent the request.
        owner: id of the item's owner. Only reviewers and admins may use an item without an owner (empty).

    >>> may_use(User("kim", "annotator", "token:kim"), "token:lee"), may_use(User("ann", "reviewer", "token:ann"), "token:lee")
    (False, True)
    """
    return user.may("reviewer") or (bool(owner) and owner == user.id)
