"""Label expressions over columns, such as `log1p(play_time_ms / 1000)`: parsed once, run on Arrow arrays.

The grammar is a small part of Python's own (names, numbers, + - * /, comparisons, & | ~, calls of the functions
below), walked as a syntax tree; nothing is ever evaluated by Python. What is null or NaN is unknown, and so is what
follows from it: only `coalesce`, and `&` and `|` where the other side decides, make something known of it.

Integers are exact in `+ - *`, and an error where they leave their 64 bits. Division, `log`, `log1p` and `sqrt` work on
doubles, as does whatever a double is part of: an integer beyond 2^53, such as a timestamp in nanoseconds, becomes the
nearest one.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

_BINARY: dict[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.Add: pc.add_checked,
    ast.Sub: pc.subtract_checked,
    ast.Mult: pc.multiply_checked,
    ast.Div: lambda a, b: pc.divide(*_alike(pc.cast(a, pa.float64(), safe=False), b)),
    ast.BitAnd: lambda a, b: pc.and_kleene(_boolean(a), _boolean(b)),
    ast.BitOr: lambda a, b: pc.or_kleene(_boolean(a), _boolean(b)),
    ast.Eq: pc.equal,
    ast.NotEq: pc.not_equal,
    ast.Lt: pc.less,
    ast.LtE: pc.less_equal,
    ast.Gt: pc.greater,
    ast.GtE: pc.greater_equal,
}
_UNARY: dict[type[ast.AST], Callable[[Any], Any]] = {
    ast.USub: pc.negate_checked,
    ast.Invert: lambda a: pc.invert(_boolean(a)),
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "abs": pc.abs_checked,
    "coalesce": pc.coalesce,
    "log": lambda a: pc.ln(_double(a)),
    "log1p": lambda a: pc.log1p(_double(a)),
    "max": lambda *values: pc.max_element_wise(*values, skip_nulls=False),
    "min": lambda *values: pc.min_element_wise(*values, skip_nulls=False),
    "sqrt": lambda a: pc.sqrt(_double(a)),
}
_VARIADIC = ("coalesce", "max", "min")


class Expression:
    """One parsed expression.

    Raises:
        ValueError: the text uses something outside the grammar.
    """

    def __init__(self, text: str) -> None:
        """Parse and check `text`."""
        self.text = text
        names: list[str] = []
        try:
            self._tree = ast.parse(text, mode="eval").body
            self._check(self._tree, names)
        except SyntaxError as error:
            raise ValueError(
                f"expression {text!r}: {error.msg}; expected a column or arithmetic over columns"
            ) from None
        except RecursionError:
            raise ValueError(f"expression {text[:40]!r}...: nested too deeply; expected fewer terms") from None
        self.columns = tuple(dict.fromkeys(names))

    def __call__(self, columns: Mapping[str, Any]) -> Any:
        """Evaluate over Arrow arrays; null or NaN in, null out.

        Args:
            columns: Arrow arrays by name, at least those in `self.columns`.

        Returns:
            An Arrow array of the same length; a scalar where no column is named.

        Raises:
            pyarrow.ArrowException: types that do not go together, or an integer overflow.
        """
        return self._run(self._tree, columns)

    def implies(self, other: Expression) -> bool:
        """Whether this is visibly true only where `other` is: a conjunction with all of the other's terms."""
        return _terms(other._tree) <= _terms(self._tree)

    def __str__(self) -> str:
        """The text as the user wrote it."""
        return self.text

    def __repr__(self) -> str:
        """The text as a constructor call."""
        return f"Expression({self.text!r})"

    def __eq__(self, other: object) -> bool:
        """Equal by text."""
        return isinstance(other, Expression) and other.text == self.text

    def __hash__(self) -> int:
        """Hash of the text."""
        return hash(self.text)

    def _check(self, node: ast.AST, names: list[str]) -> None:
        match node:
            case ast.Name(id=name):
                names.append(name)
            case ast.Constant(value=value) if isinstance(value, (float, str)) or _is_int64(value):
                pass
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
                self._check(left, names)
                self._check(right, names)
            case ast.UnaryOp(op=op, operand=operand) if type(op) in _UNARY:
                self._check(operand, names)
            case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in _BINARY:
                self._check(left, names)
                self._check(right, names)
            case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _FUNCTIONS and args:
                if len(args) > 1 and name not in _VARIADIC:
                    raise ValueError(
                        f"expression {self.text!r}: {name} got {len(args)} arguments; expected one argument"
                    )
                for argument in args:
                    self._check(argument, names)
            case _:
                part = ast.unparse(node)
                raise ValueError(
                    f"expression {self.text!r}: {part!r} is not supported; expected columns, numbers, + - * /, "
                    f"comparisons, & | ~ and {', '.join(_FUNCTIONS)}"
                )

    def _run(self, node: ast.AST, columns: Mapping[str, Any]) -> Any:
        match node:
            case ast.Name(id=name):
                found = _widest(columns[name])
            case ast.Constant(value=value):
                return pa.scalar(value)
            case ast.BinOp(left=left, op=op, right=right) | ast.Compare(left=left, ops=[op], comparators=[right]):
                found = _BINARY[type(op)](*_alike(self._run(left, columns), self._run(right, columns)))
            case ast.UnaryOp(op=op, operand=operand):
                found = _UNARY[type(op)](self._run(operand, columns))
            case ast.Call(func=ast.Name(id=name), args=args):
                found = _FUNCTIONS[name](*_alike(*[self._run(argument, columns) for argument in args]))
            case _:
                raise AssertionError(f"unchecked node {node!r}")  # _check refuses everything else
        return nan_to_null(found)

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: GetCoreSchemaHandler) -> CoreSchema:
        """Read from and written to YAML as a string."""
        return core_schema.no_info_plain_validator_function(
            cls._validate, serialization=core_schema.plain_serializer_function_ser_schema(str)
        )

    @classmethod
    def _validate(cls, value: object) -> Expression:
        if isinstance(value, Expression):
            return value
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"got {value!r}; expected a column name or an expression over columns")
        return cls(value)

    @classmethod
    def __get_pydantic_json_schema__(cls, _schema: CoreSchema, _handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """A string, for editors."""
        return {"type": "string", "minLength": 1}


def nan_to_null(values: Any) -> Any:
    """The Arrow array or scalar with null for every NaN: both say that nothing is known."""
    if not pa.types.is_floating(values.type):
        return values
    return pc.if_else(pc.is_nan(values), pa.scalar(None, values.type), values)


def _widest(values: Any) -> Any:
    """Integers of few bits as int64, so that what is made of them has room."""
    kind = values.type
    narrow = pa.types.is_integer(kind) and not pa.types.is_int64(kind) and not pa.types.is_uint64(kind)
    return pc.cast(values, pa.int64()) if narrow else values


def _double(values: Any) -> Any:
    """Integers as the nearest doubles, where Arrow by itself would refuse those beyond 2^53."""
    return pc.cast(values, pa.float64(), safe=False) if pa.types.is_integer(values.type) else values


def _alike(*values: Any) -> list[Any]:
    """Integers as doubles where they meet one."""
    return [_double(each) for each in values] if any(pa.types.is_floating(v.type) for v in values) else list(values)


def _is_int64(value: object) -> bool:
    return isinstance(value, int) and -(2**63) <= value < 2**63


def _terms(node: ast.AST) -> frozenset[str]:
    """Operands of the `&` at the top of a tree, in one spelling."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitAnd):
        return _terms(node.left) | _terms(node.right)
    return frozenset([ast.unparse(node)])


def _boolean(values: Any) -> Any:
    return values if pa.types.is_boolean(values.type) else pc.not_equal(values, 0)
