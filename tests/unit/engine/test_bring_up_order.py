"""Which model comes first."""

from service.engine.bring_up_order import BringUpOrder


def test_models_come_as_the_cards_have_them_the_default_first():
    order = BringUpOrder(["a", "b", "c"], "b")
    names = []
    while name := order.next():
        names.append(name)
        order.done(name)
    assert names == ["b", "a", "c"]


def test_those_that_requests_wait_for_come_before_all_others_in_order_of_the_requests():
    order = BringUpOrder(["a", "b", "c", "d"], "a")
    for name in ("d", "c", "d", "gone"):
        order.want(name)
    assert order.next() == "d"
    assert order.gives_way("a")
    assert not order.gives_way("d")
    assert not order.gives_way("c")  # two that are waited for do not take turns
    order.done("d")
    assert order.next() == "c"
    order.done("c")
    assert order.next() == "a"
    assert not order.gives_way("a")


def test_one_that_is_ready_already_is_not_waited_for():
    order = BringUpOrder(["a", "b"], "a")
    order.done("a")
    order.want("a")
    assert order.next() == "b"
    assert not order.gives_way("b")
