"""Automatic names, prefixes and attribute scopes."""

from __future__ import annotations

import threading

import pytest

import tconv as mx


def test_counters_are_per_hint_and_manager() -> None:
    with mx.name.NameManager() as outer:
        x = mx.sym.var("x")
        assert [mx.sym.relu(x).name, mx.sym.relu(x).name, (x + x).name] == ["relu0", "relu1", "_plus0"]
        with mx.name.NameManager():
            assert mx.sym.relu(x).name == "relu0"
        assert mx.sym.relu(x).name == "relu2"
        assert mx.name.NameManager.current is outer


def test_prefix_stands_before_given_names_too() -> None:
    with mx.name.Prefix("a_"):
        assert mx.sym.relu(mx.sym.var("x")).list_outputs() == ["a_relu0_output"]
        assert mx.sym.FullyConnected(mx.sym.var("x"), num_hidden=1, name="f").list_arguments()[1] == "a_f_weight"


def test_own_manager_may_change_names() -> None:
    class Loud(mx.name.NameManager):
        def get(self, name: str | None, hint: str) -> str:
            return super().get(name, hint).upper()

    with Loud():
        assert mx.sym.relu(mx.sym.var("x")).name == "RELU0"


def test_same_manager_entered_twice_leaves_twice() -> None:
    manager, before = mx.name.NameManager(), mx.name.NameManager.current
    with manager, manager:
        pass
    assert mx.name.NameManager.current is before


def test_manager_and_scope_belong_to_their_thread() -> None:
    seen: list[object] = []

    def look() -> None:
        seen.append(mx.sym.relu(mx.sym.var("x")).name)
        seen.append(mx.sym.var("x").list_attr())

    with mx.name.Prefix("p_"), mx.AttrScope(__a__="1"):
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
    assert seen == ["relu0", {}]


def test_inner_scope_and_symbol_override() -> None:
    with mx.AttrScope(__a__="outer", __b__="outer"), mx.AttrScope(__a__="inner") as scope:
        s = mx.sym.var("x", attr={"__c__": "own", "__b__": "own"})
        assert mx.AttrScope.current is scope
    assert s.list_attr() == {"__a__": "inner", "__b__": "own", "__c__": "own"}
    assert mx.sym.var("x").list_attr() == {}


def test_scope_keeps_nothing_of_where_it_was_used() -> None:
    scope = mx.AttrScope(__a__="1")
    with mx.AttrScope(__b__="2"), scope:
        pass
    with scope:
        assert mx.sym.var("x").list_attr() == {"__a__": "1"}


def test_scope_takes_text_only() -> None:
    with pytest.raises(ValueError, match="AttrScope: lr_mult: got int; need text"):
        mx.AttrScope(lr_mult=2)
