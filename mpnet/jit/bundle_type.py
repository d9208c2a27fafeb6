"""Bundles for Numba: their type, and how compiled code reads their members."""

import hashlib
from typing import Any

from llvmlite import ir
from numba import types
from numba.core.typing.templates import AttributeTemplate
from numba.extending import (
    NativeValue,
    infer_getattr,
    lower_getattr_generic,
    models,
    register_model,
    typeof_impl,
    unbox,
)
from numba.np.arrayobj import populate_array

_WORD = ir.IntType(64)
_WORDS = 2
_TABLE = "table"


class Bundle(types.Type):
    """Numba's type of one, from that of the named tuple."""

    def __init__(self, members: types.NamedTuple) -> None:
        self.members = members
        # Numba has the name in each symbol, in full: that of all members is kilobytes long.
        digest = hashlib.sha256(members.name.encode()).hexdigest()[:16]
        super().__init__(name=f"Bundle({members.instance_class.__name__}, {digest})")


def register(cls: type) -> None:
    """Have compiled functions take named tuples of this class by address."""

    @typeof_impl.register(cls)
    def type_of(value: Any, context: Any) -> Bundle:
        return Bundle(types.NamedTuple([typeof_impl(member, context) for member in value], cls))


@register_model(Bundle)
class _Model(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Bundle) -> None:
        super().__init__(manager, kind, _WORD)


@unbox(Bundle)
def _unbox_bundle(kind: Bundle, value: Any, c: Any) -> Any:
    place = kind.members.fields.index(_TABLE)
    table = c.unbox(kind.members.types[place], c.pyapi.tuple_getitem(value, place))
    data = c.context.make_array(kind.members.types[place])(c.context, c.builder, table.value).data
    return NativeValue(c.builder.ptrtoint(data, _WORD), is_error=table.is_error, cleanup=table.cleanup)


@infer_getattr
class _Attributes(AttributeTemplate):
    key = Bundle

    def generic_resolve(self, kind: Any, name: str) -> Any:  # type: ignore[override]  # to Numba, it is optional
        members = kind.members
        return members.types[members.fields.index(name)] if name in members.fields else None


@lower_getattr_generic(Bundle)
def _member(context: Any, builder: Any, kind: Bundle, address: Any, name: str) -> Any:
    place = kind.members.fields.index(name)
    array_kind = kind.members.types[place]
    array = context.make_array(array_kind)(context, builder)
    item_bytes = ir.Constant(_WORD, context.get_abi_sizeof(context.get_data_type(array_kind.dtype)))
    data, count = (_word(builder, address, _WORDS * place + word) for word in range(_WORDS))
    populate_array(
        array,
        data=builder.inttoptr(data, array.data.type),
        shape=[count],
        strides=[item_bytes],
        itemsize=item_bytes,
        meminfo=None,
    )
    return array._getvalue()  # noqa: SLF001 - Numba's way to a structure's value


def _word(builder: Any, table: Any, place: int) -> Any:
    """A word of the table, which never changes: LLVM need not load it again behind a store."""
    address = builder.add(table, ir.Constant(_WORD, 8 * place))
    word = builder.load(builder.inttoptr(address, _WORD.as_pointer()))
    word.set_metadata("invariant.load", builder.module.add_metadata([]))
    return word
