"""What a Dask cluster is asked to do, and what such a cluster must offer; without importing Dask."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from distributed import Security

GPU, CPU = "GPU", "CPU"
"""Names of the resources of workers that run networks, and of workers that only register."""


class Cluster(Protocol):
    """An open cluster."""

    @property
    def address(self) -> str:
        """The address of its scheduler."""
        ...

    @property
    def security(self) -> Security | None:
        """The certificates; None for a cluster on the loopback interface."""
        ...

    @property
    def threads(self) -> int:
        """The threads of PyTorch in each worker."""
        ...

    @property
    def expected(self) -> Mapping[str, int]:
        """The number of workers that it starts, by the resource that they have; empty if others start them."""
        ...

    def keep_up(self, names: set[str]) -> None:
        """Replaces lost workers, if the cluster does not do that itself; `names`: those that are connected."""
        ...


@dataclass(frozen=True)
class Call:
    """A task: a function of a module, which is sent by its name, and its arguments.

    Attributes:
        name: the caller's name of the task.
        function: the function; it can be repeated.
        arguments: its arguments.
        resources: resources that a worker needs for it.
    """

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    resources: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class EndedCall:
    """A task that has ended.

    Attributes:
        call: the task.
        value: what its function returned.
        error: what its function raised; None if it returned.
        killed: whether workers were lost repeatedly while they ran it.
    """

    call: Call
    value: Any = None
    error: BaseException | None = None
    killed: bool = False
