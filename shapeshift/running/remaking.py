"""Building a model in less memory than its tensors need: large ones are dropped, and made again when they are read.

A model's constructor draws a weight, draws it again, scales it or writes zeros into it. Each of these is an operation
of torch, which a mode sees. The mode notes the operations that give a large tensor its values. Where large tensors need
more memory than a bound, the mode frees the one that was used longest ago. When an operation reads that tensor, the
mode repeats what it noted, with the same random numbers. So each tensor has the values that it has without the mode.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, UntypedStorage
from torch._ops import OpOverload
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

#: Storages of fewer bytes are never dropped.
LEAST_BYTES = 2**20
#: The bytes of large tensors that are kept, beside those that the running operation uses.
KEPT_BYTES = 2**28
#: The bytes that are dropped before the system gets them back.
TRIMMED_BYTES = 2**26

_aten = torch.ops.aten
# They leave nothing of the values that a tensor has before.
_OVERWRITING = {_aten.normal_, _aten.uniform_, _aten.zero_, _aten.fill_, _aten.copy_}
_EMPTY = {_aten.empty, _aten.new_empty, _aten.empty_like, _aten.empty_strided, _aten.new_empty_strided}
# With these, Python reads and writes the memory of a tensor without an operation that the mode sees.
_RAW = {"__array__", "__deepcopy__", "__dlpack__", "__reduce_ex__", "apply_", "data_ptr", "map_", "map2_", "numpy"}
_RAW |= {"share_memory_", "storage", "tolist", "untyped_storage"}


@dataclass(frozen=True, eq=False)
class _Call:
    """An operation with its arguments as they were before it.

    Attributes:
        run: The operation.
        arguments: The leaves of its arguments. An operand stands for a large tensor, and a copy for a small one.
        structure: How the leaves form the arguments and the keyword arguments.
        random_state: The state of the random numbers; None for an operation that draws none.
        default_dtype: The dtype of tensors that are made without one.
    """

    run: OpOverload
    arguments: Sequence[Any]
    structure: Any
    random_state: Tensor | None
    default_dtype: torch.dtype

    def operands(self) -> Iterator[_Operand]:
        """Yield the large tensors among the arguments."""
        return (found for found in self.arguments if isinstance(found, _Operand))


@dataclass(frozen=True, eq=False)
class _Step:
    """A call that gave a storage its values.

    Attributes:
        call: The call.
        address: The address of the storage, among those of the operands; None for one that the call makes.
        before: The step before, of whose values the call changes some; None if it leaves none of them.
        output: Which tensor among the results has the storage; None for a call in place.
        num_bytes: The size of the storage.
    """

    call: _Call
    address: int | None
    before: _Step | None
    output: int | None
    num_bytes: int

    @property
    def is_known(self) -> bool:
        """Whether all that the call reads beside the storage can be made again."""
        return all(found.step is not None or found.address == self.address for found in self.call.operands())


@dataclass(frozen=True)
class _Operand:
    """A large tensor among the arguments of a call.

    Attributes:
        address: The address of its storage.
        step: The step that gave it its values; None if they cannot be made again.
        dtype: Its dtype.
        geometry: Its offset in the storage, its shape and its strides.
    """

    address: int | None
    step: _Step | None
    dtype: torch.dtype
    geometry: tuple[int, Sequence[int], Sequence[int]]

    def on(self, storage: UntypedStorage) -> Tensor:
        """Return the tensor on a storage."""
        empty = torch.empty(0, dtype=self.dtype, device="cpu")
        return empty.set_(storage, *self.geometry)  # type: ignore[call-overload,no-any-return]


class _Large:
    """A large storage.

    Attributes:
        num_bytes: Its size while it is not dropped.
        step: The last step that gave it values; None if it cannot be made again.
        is_dropped: Whether its memory is freed.
        is_pinned: Whether it is never dropped again.
    """

    def __init__(self, storage: UntypedStorage, step: _Step | None) -> None:
        self._reference = StorageWeakRef(storage)
        self.num_bytes = storage.nbytes()
        self.step = step
        self.is_dropped = self.is_pinned = False

    @property
    def is_gone(self) -> bool:
        """Whether no tensor has the storage any more."""
        return self._reference.expired()  # type: ignore[no-any-return,no-untyped-call]

    @property
    def storage(self) -> UntypedStorage:
        """The storage; one of no memory if it is gone."""
        found = UntypedStorage._new_with_weak_ptr(self._reference.cdata)
        return UntypedStorage(0) if found is None else found

    def drop(self) -> None:
        """Free the memory."""
        self.storage.resize_(0)
        self.is_dropped = True

    def allocate(self) -> None:
        """Give a dropped storage memory again, without values."""
        if self.is_dropped:
            self.storage.resize_(self.num_bytes)
            self.is_dropped = False

    def restore(self) -> None:
        """Give a dropped storage memory and its values again."""
        if self.is_dropped:
            assert self.step is not None
            with torch.no_grad():
                _make(self.step, self.storage)
            self.is_dropped = False

    def change(self, step: _Step, is_replaced: bool) -> None:
        """Note the step of a call that changed the storage in place.

        Args:
            step: The step.
            is_replaced: Whether it left nothing of the values before.
        """
        num_bytes = self.storage.nbytes()
        is_known = step.is_known and (is_replaced or self.step is not None) and num_bytes == self.num_bytes
        self.step = step if is_known and not self.is_pinned else None
        self.num_bytes = num_bytes

    def pin(self) -> None:
        """Keep the storage from now on."""
        self.restore()
        self.step, self.is_pinned = None, True


class Remaking(TorchDispatchMode):
    """A context in which large tensors on the CPU are dropped where memory is short, and made again when they are read.

    All tensors that are left have their values again after the context. After an error, dropped ones have none.

    Args:
        least_bytes: The bytes of a storage from which on it may be dropped; None for ``LEAST_BYTES``.
        kept_bytes: The bytes of large tensors that are kept, beside those that the running operation uses; None for
            ``KEPT_BYTES``.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and torch would import its compiler

    def __init__(self, least_bytes: int | None = None, kept_bytes: int | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.least_bytes = LEAST_BYTES if least_bytes is None else least_bytes
        self.kept_bytes = KEPT_BYTES if kept_bytes is None else kept_bytes
        #: The large storages by address. Each has a weak reference, so that no other gets its address.
        self.known: dict[int, _Large] = {}
        #: Those that may be dropped and are not; the one that was used last is at the end.
        self.kept: dict[int, _Large] = {}
        #: Whether an operation is handled now. What that calls is left alone.
        self.is_busy = False
        self._is_recording = False
        self._dropped_bytes = 0
        self._next_cleaning = 1000

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Note how tensors are made in this context. Those that are made outside of it are not dropped."""
        self._is_recording = True
        try:
            with _RawAccess(self):
                yield
        finally:
            self._is_recording = False

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, traceback)  # type: ignore[no-untyped-call]
        for large in self.known.values():
            if large.is_gone:
                continue
            if kind is None:
                large.restore()
            else:
                large.allocate()  # torch does not check whether memory is there
        self.known.clear()
        self.kept.clear()

    def pin(self, values: Any) -> None:
        """Keep all tensors in a structure from now on."""
        with self._busy():
            for address in map(_address, tree_leaves(values)):
                if address in self.known:
                    self.known[address].pin()
                    self.kept.pop(address, None)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self.is_busy:
            return func(*args, **kwargs)
        with self._busy():
            used = {address: self.known[address] for address in _addresses((args, kwargs)) if address in self.known}
            if not used and not self._is_recording:
                return func(*args, **kwargs)
            if not isinstance(func, OpOverload) or torch.Tag.inplace_view in func.tags:
                self.pin((args, kwargs))
                return func(*args, **kwargs)
            if func.is_view:
                with _memory(used.values()):
                    return func(*args, **kwargs)
            return self._run(func, args, kwargs, used)

    def _run(self, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any], used: dict[int, _Large]) -> Any:
        """Run an operation that reads values or writes some, and note it."""
        written = {address: used[address] for address in _written(func, args, kwargs) if address in used}
        replaced = _replaced(func, args, written)
        self._drop(used)
        if func.overloadpacket not in _EMPTY:
            for address, large in used.items():
                if address != replaced:
                    large.restore()
        call = self._call(func, args, kwargs)
        with _memory(used.values(), filled=None if replaced is None else used[replaced]):
            results = func(*args, **kwargs)
        for address, large in written.items():
            step = _Step(call, address, None if address == replaced else large.step, None, large.num_bytes)
            large.change(step, address == replaced)
        if self._is_recording:
            given = set(_addresses((args, kwargs)))
            for output, result in enumerate(tree_leaves(results)):
                storage = _storage(result)
                if storage is not None and storage.nbytes() >= self.least_bytes and storage._cdata not in given:
                    step = _Step(call, None, None, output, storage.nbytes())
                    large = _Large(storage, step if step.is_known and not written else None)
                    used[storage._cdata] = self.known[storage._cdata] = large
        for address, large in used.items():
            self.kept.pop(address, None)
            if large.step is not None and not large.is_dropped:
                self.kept[address] = large
        return results

    def _call(self, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Call:
        """Note an operation that is about to run, and what its arguments are now."""
        # What an operation without values takes from tensors is not needed: it is never repeated.
        leaves, structure = tree_flatten(((), {}) if func.overloadpacket in _EMPTY else (args, kwargs))
        noted = []
        for leaf in leaves:
            if isinstance(leaf, Tensor):
                address = _address(leaf)
                is_small = leaf.numel() * leaf.element_size() < self.least_bytes
                if address in self.known or not is_small:
                    large = self.known.get(address) if address is not None else None
                    geometry = (int(leaf.storage_offset()), tuple(leaf.shape), leaf.stride()) if large else (0, (), ())
                    leaf = _Operand(address, large.step if large else None, leaf.dtype, geometry)
                else:
                    leaf = leaf.detach().clone()
            noted.append(leaf)
        random_state = None
        if torch.Tag.nondeterministic_seeded in func.tags:
            random_state = (kwargs.get("generator") or torch.default_generator).get_state()
        return _Call(func, noted, structure, random_state, torch.get_default_dtype())

    def _drop(self, used: dict[int, _Large]) -> None:
        """Drop the tensors that were used longest ago until the rest fits the bound, except for those in use."""
        others = {address: large for address, large in self.kept.items() if address not in used}
        excess = sum(large.num_bytes for large in others.values() if not large.is_gone) - self.kept_bytes
        for address, large in others.items():
            if large.is_gone:
                del self.kept[address]
            elif excess > 0:
                excess -= large.num_bytes
                self._dropped_bytes += large.num_bytes
                self.kept.pop(address).drop()
        if self._dropped_bytes >= TRIMMED_BYTES:
            self._dropped_bytes = 0
            _trim()
        if len(self.known) > self._next_cleaning:
            self.known = {address: large for address, large in self.known.items() if not large.is_gone}
            self._next_cleaning = 2 * len(self.known) + 1000

    @contextlib.contextmanager
    def _busy(self) -> Iterator[None]:
        before, self.is_busy = self.is_busy, True
        try:
            yield
        finally:
            self.is_busy = before


class _RawAccess(TorchFunctionMode):
    """Pins the tensors whose memory Python reaches without an operation that a dispatch mode sees."""

    def __init__(self, remaking: Remaking) -> None:
        super().__init__()
        self.remaking = remaking

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in _RAW and not self.remaking.is_busy:
            self.remaking.pin((args, kwargs))
        return func(*args, **kwargs)


def _trim() -> None:
    """Give freed memory back to the system: the C library of Linux keeps what lies between blocks in use."""
    with contextlib.suppress(AttributeError, OSError, TypeError):  # other systems' libraries have no such call
        ctypes.CDLL(None).malloc_trim(0)


def _storage(value: Any) -> UntypedStorage | None:
    """Return the storage of a plain tensor on the CPU; None for anything else."""
    if (
        not isinstance(value, Tensor)
        or value.device.type != "cpu"
        or value.layout != torch.strided
        or type(value).__torch_dispatch__ is not Tensor.__torch_dispatch__
    ):
        return None
    return value.untyped_storage()


def _address(value: Any) -> int | None:
    storage = _storage(value)
    return None if storage is None else storage._cdata


def _addresses(values: Any) -> Iterator[int]:
    """Yield the addresses of the storages of all plain tensors in a structure."""
    return (address for address in map(_address, tree_leaves(values)) if address is not None)


def _written(func: OpOverload, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Iterator[int]:
    """Yield the addresses of the storages that an operation writes to."""
    for position, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            is_positional = position < len(args) and not argument.kwarg_only
            yield from _addresses(args[position] if is_positional else kwargs.get(argument.name))


def _replaced(func: OpOverload, args: tuple[Any, ...], written: Mapping[int, _Large]) -> int | None:
    """Return the address of the storage whose values an operation replaces without reading them; None without one."""
    if func.overloadpacket not in _OVERWRITING:
        return None
    address, tensor = _address(args[0]), args[0]
    if address is None or address not in written or address in set(_addresses(args[1:])) or not tensor.is_contiguous():
        return None
    return address if tensor.numel() * tensor.element_size() == written[address].num_bytes else None


@contextlib.contextmanager
def _memory(used: Iterable[_Large], filled: _Large | None = None) -> Iterator[None]:
    """Give the dropped ones among storages memory in this context, as torch requires also where no value is read.

    Args:
        used: The storages.
        filled: The one that has all its values afterwards, unless there is an error.
    """
    dropped = [large for large in used if large.is_dropped]
    for large in dropped:
        large.allocate()
    try:
        yield
        dropped = [large for large in dropped if large is not filled]
    finally:
        for large in dropped:
            large.drop()


def _make(step: _Step, storage: UntypedStorage) -> None:
    """Give a storage the values that a step and those before it lead to."""
    chain = [step]
    while (before := chain[-1].before) is not None:
        chain.append(before)
    storage.resize_(step.num_bytes)
    for each in reversed(chain):
        if each.output is None or each.call.run.overloadpacket not in _EMPTY:
            _repeat(each, storage)


def _repeat(step: _Step, storage: UntypedStorage) -> None:
    """Repeat a step on a storage."""
    call = step.call
    # In place, several arguments can be on one storage.
    storages: dict[int | None, UntypedStorage] = {}
    for operand in call.operands():
        if operand.address not in storages and operand.address != step.address:
            assert operand.step is not None
            storages[operand.address] = UntypedStorage(0)
            _make(operand.step, storages[operand.address])
    if step.address is not None:
        storages[step.address] = storage

    def argument(noted: Any) -> Any:
        if isinstance(noted, _Operand):
            return noted.on(storages[noted.address])
        return noted.clone() if isinstance(noted, Tensor) else noted  # an operation in place may change it

    args, kwargs = tree_unflatten(list(map(argument, call.arguments)), call.structure)
    default_dtype = torch.get_default_dtype()
    torch.set_default_dtype(call.default_dtype)
    try:
        with torch.random.fork_rng(devices=(), enabled=call.random_state is not None):
            if call.random_state is not None and kwargs.get("generator") is not None:
                kwargs["generator"] = torch.Generator(device="cpu").set_state(call.random_state)
            elif call.random_state is not None:
                torch.set_rng_state(call.random_state)
            results = call.run(*args, **kwargs)
    finally:
        torch.set_default_dtype(default_dtype)
    if step.output is not None:
        storage.copy_(tree_leaves(results)[step.output].untyped_storage())
