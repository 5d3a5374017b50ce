"""Errors under Python's own names, by which MXNet's gluon raises them, that are MXNetErrors as well."""

from __future__ import annotations

from tconv.errors import ArgumentError, MXNetError


class AssertionError(ArgumentError):  # noqa: A001
    """An argument, or the content of a file, that MXNet asserts to be otherwise."""


class RuntimeError(MXNetError):  # noqa: A001
    """A call that comes too early."""


class ValueError(ArgumentError):  # noqa: A001
    """A value or structure that does not fit."""
