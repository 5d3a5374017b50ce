"""Further layers (`mx.gluon.contrib`)."""

from tconv.gluon.contrib import nn

__all__ = ["nn"]
