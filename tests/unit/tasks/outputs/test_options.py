"""What a request asks for beside its examples, and the words for what there is not."""

from __future__ import annotations

import pytest
from starlette.requests import Request

from service.errors import Unprocessable
from service.tasks.outputs.options import DEFAULT_TOP_K, agreed_top_k, check_headers, no_options, top_k_of_query


def items(query: str) -> list[tuple[str, str]]:
    return Request({"type": "http", "query_string": query.encode(), "headers": []}).query_params.multi_items()


@pytest.mark.parametrize(("query", "top_k"), [("", None), ("top_k=1", 1), ("top_k=100", 100), ("top_k=007", 7)])
def test_a_query_may_say_top_k(query, top_k):
    assert top_k_of_query(items(query)) == top_k


OPTION = "the one option is top_k, such as ?top_k=5; X-Timeout-Ms is a header."
PATH = "a model is chosen by the path: POST /models"


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("top_k=", "top_k is ''; it must be a whole number from 1 to 100."),
        ("top_k", "top_k is ''; it must be a whole number from 1 to 100."),
        ("top_k=101", "top_k is '101'; it must be a whole number from 1 to 100."),
        ("top_k=3&top_k=3", "top_k appears in the query twice; give it once."),
        ("topk=3", "'topk' is not a query parameter; did you mean ?top_k=5?"),
        ("TOP-K=3", "'TOP-K' is not a query parameter; did you mean ?top_k=5?"),
        ("k=3", "'k' is not a query parameter; did you mean ?top_k=5?"),
        ("model=dogs", f"'model' is not a query parameter; {PATH}/dogs/predict."),
        ("top_k=3&model=dogs", f"'model' is not a query parameter; {PATH}/dogs/predict."),
        ("model_name=a%2F..%0Ab", f"'model_name' is not a query parameter; {PATH}/NAME/predict."),
        (
            "timeout=3",
            "'timeout' is not a query parameter; a timeout goes into the header X-Timeout-Ms, in milliseconds.",
        ),
        ("colour=red", f"'colour' is not a query parameter; {OPTION}"),
        ("=1", f"'' is not a query parameter; {OPTION}"),
        ("x" * 9000, f"'{'x' * 40}' is not a query parameter; {OPTION}"),
    ],
)
def test_a_query_that_says_anything_else_is_refused_with_what_there_is(query, words):
    with pytest.raises(Unprocessable) as raised:
        top_k_of_query(items(query))
    assert raised.value.detail == words


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (("x-top-k", "3"), "X-Top-K is not a header of this server; did you mean ?top_k=5?"),
        (("x-model", "dogs"), f"X-Model is not a header of this server; {PATH}/dogs/predict."),
        (("x-model-name", "a b"), f"X-Model-Name is not a header of this server; {PATH}/NAME/predict."),
        (
            ("x-timeout", "3"),
            "X-Timeout is not a header of this server; a timeout goes into the header X-Timeout-Ms, in milliseconds.",
        ),
        (("x-gradless-model", "a"), f"X-Gradless-Model is not a header of this server; {PATH}/a/predict."),
        (("x-gradless-colour", "\xff"), f"X-Gradless-Colour is not a header of this server; {OPTION}"),
    ],
)
def test_a_header_that_means_an_option_is_refused_with_where_it_goes(header, words):
    name, value = (text.encode("latin-1") for text in header)
    with pytest.raises(Unprocessable) as raised:
        check_headers([(b"host", b"a"), (name, value)])
    assert raised.value.detail == words


def test_headers_of_ours_and_of_proxies_pass():
    names = [
        "x-timeout-ms",
        "x-request-id",
        "x-forwarded-for",
        "x-real-ip",
        "x-envoy-expected-rq-timeout-ms",
        "x-b3-spanid",
    ]
    check_headers([(name.encode(), b"1") for name in names])


def test_query_and_body_may_agree():
    assert agreed_top_k(None, None) == DEFAULT_TOP_K
    assert agreed_top_k(3, None) == agreed_top_k(None, 3) == agreed_top_k(3, 3) == 3
    with pytest.raises(Unprocessable, match=r"^top_k is 3 in the query and 4 in the body; give it once\.$"):
        agreed_top_k(3, 4)


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("top_k=3", "top_k is for the classes of a classifier, and this model has none; leave it out."),
        ("model=dogs", f"'model' is not a query parameter; {PATH}/dogs/predict."),
    ],
)
def test_a_task_without_options_refuses_each(query, words):
    with pytest.raises(Unprocessable) as raised:
        no_options(items(query))
    assert raised.value.detail == words


def test_a_task_without_options_takes_a_query_without_any():
    no_options(items(""))
