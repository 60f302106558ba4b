from __future__ import annotations

import math

import pytest

from protos import engine_pb2 as pb
from services.engine.core import CacheKey, Constraint, Lane, Sampling, TextPiece, Trigger
from services.engine.front.models.planning.model_settings import ModelSettings
from services.engine.front.rpc.from_proto import parse_model_settings, parse_submit
from services.engine.front.rpc.model_defaults import ModelDefaults, parse_model_defaults
from services.engine.messages import commands
from services.engine.messages.commands import ThinkingBudget
from services.shared.errors import InvalidRequest

NO_DEFAULTS = parse_model_defaults({})


def open_realm(tenant: str, private_key: bytes) -> tuple[str, tuple[CacheKey, ...]]:
    return f"{tenant}+{private_key.decode()}", (CacheKey(b"i" * 16, b"s" * 32),)


def parse_for_tests(message: pb.Submit, defaults: ModelDefaults) -> commands.Submit:
    return parse_submit(message, defaults, open_realm)


def message(**changes: object) -> pb.Submit:
    fields: dict[str, object] = {
        "text": pb.PromptText(pieces=[pb.TextPiece(text="hi")]),
        "sampling": pb.Sampling(seed=1),
    }
    return pb.Submit(**(fields | changes))  # type: ignore[arg-type]


def test_a_bare_request_takes_the_engines_defaults() -> None:
    submit = parse_for_tests(message(), NO_DEFAULTS)

    assert submit.sampling == Sampling(seed=1)
    assert (submit.n, submit.lane, submit.top_logprobs) == (1, Lane.INTERACTIVE, None)
    assert submit.stopping.max_tokens is None
    assert submit.deadline_seconds is None


def text_with_cuts(*cuts: int) -> pb.PromptText:
    pieces = [pb.TextPiece(text="héllo"), pb.TextPiece(text="you", literal=True)]
    return pb.PromptText(pieces=pieces, cuts=cuts)


@pytest.mark.parametrize("cuts", [(), (1,), (8,), (2, 5, 6, 8)])
def test_cuts_ascend_within_the_text(cuts: tuple[int, ...]) -> None:
    assert parse_for_tests(message(text=text_with_cuts(*cuts)), NO_DEFAULTS).cuts == cuts


@pytest.mark.parametrize("cuts", [(0,), (9,), (3, 3), (5, 2), (1, 2, 3, 4, 5), tuple(range(1, 9))])
def test_other_cuts_are_refused(cuts: tuple[int, ...]) -> None:
    """Each may cost a copy of the model's state."""
    with pytest.raises(InvalidRequest) as caught:
        parse_for_tests(message(text=text_with_cuts(*cuts)), NO_DEFAULTS)
    assert caught.value.param == "cuts"


def test_the_request_overrides_the_model_and_the_model_overrides_the_engine() -> None:
    defaults = parse_model_defaults({"temperature": 0.2, "top_k": 7, "num_predict": 99})
    submit = parse_for_tests(message(sampling=pb.Sampling(temperature=0.0, seed=1)), defaults)

    assert submit.sampling == Sampling(temperature=0.0, top_k=7, seed=1)
    assert submit.stopping.max_tokens == 99


def test_every_field_of_a_request_is_parsed() -> None:
    submit = parse_for_tests(
        pb.Submit(
            tokens=pb.PromptTokens(ids=[1, 2]),
            sampling=pb.Sampling(seed=2**64 - 1, logit_bias={5: -100.0}, repeat_last_n=0),
            stopping=pb.Stopping(max_tokens=3, min_tokens=2, strings=["x"], token_ids=[9]),
            constraint=pb.Constraint(
                regex="a+",
                before='start: "b"',
                trigger=pb.Trigger(
                    text="a",
                    thinking_start="<t>",
                    thinking_end="</t>",
                    is_thinking=True,
                    only_at_start=True,
                ),
            ),
            n=3,
            top_logprobs=0,
            lane=pb.LANE_BATCH,
            principal="key",
            deadline_seconds=1.5,
            prompt_logprobs=True,
            no_cache=True,
            thinking=pb.ThinkingBudget(
                start="<t>", end="</t>", is_open=True, max_tokens=0, spares_answer=True
            ),
        ),
        NO_DEFAULTS,
    )

    assert (submit.tokens, submit.pieces, submit.n, submit.top_logprobs) == ((1, 2), None, 3, 0)
    assert submit.sampling == Sampling(seed=2**64 - 1, logit_bias={5: -100.0}, repeat_last_n=0)
    assert (submit.stopping.strings, submit.stopping.token_ids) == (("x",), (9,))
    trigger = Trigger(
        text="a",
        thinking_start="<t>",
        thinking_end="</t>",
        is_thinking=True,
        only_at_start=True,
    )
    assert submit.constraint == Constraint("regex", "a+", 'start: "b"', trigger)
    assert (submit.lane, submit.principal, submit.deadline_seconds) == (Lane.BATCH, "key", 1.5)
    assert submit.realm == "key+"
    assert submit.thinking == ThinkingBudget("<t>", "</t>", True, 0, True)
    assert submit.prompt_logprobs
    assert submit.no_cache


def test_the_texts_around_what_is_filled_in_are_parsed() -> None:
    infill = pb.PromptInfill(prefix="a", suffix="b")
    submit = parse_for_tests(message(text=None, infill=infill), NO_DEFAULTS)

    assert (submit.infill, submit.pieces, submit.tokens) == (("a", "b"), None, None)


def test_literal_pieces_stay_literal() -> None:
    pieces = [pb.TextPiece(text="<a>"), pb.TextPiece(text="<b>", literal=True)]
    submit = parse_for_tests(
        message(text=pb.PromptText(pieces=pieces, add_special=True)), NO_DEFAULTS
    )

    assert submit.pieces == (TextPiece("<a>", False), TextPiece("<b>", True))
    assert submit.add_special


def test_a_request_without_a_seed_gets_a_random_one() -> None:
    seeds = {
        parse_for_tests(message(sampling=pb.Sampling()), NO_DEFAULTS).sampling.seed
        for _ in range(5)
    }

    assert len(seeds) == 5


@pytest.mark.parametrize(("seed", "is_used"), [(42, True), (-1, False), ("42", False)])
def test_a_models_own_seed_is_used_unless_it_is_negative_or_no_integer(
    seed: object, is_used: bool
) -> None:
    found = parse_for_tests(
        message(sampling=pb.Sampling()), parse_model_defaults({"seed": seed})
    ).sampling.seed

    assert (found == 42) is is_used


def test_a_models_stop_strings_are_added_unless_the_end_token_is_ignored() -> None:
    defaults = parse_model_defaults({"stop": ["User:", "x"]})

    given = parse_for_tests(message(stopping=pb.Stopping(strings=["x"])), defaults)
    endless = parse_for_tests(message(stopping=pb.Stopping(ignore_eos=True)), defaults)

    assert given.stopping.strings == ("x", "User:")
    assert endless.stopping.strings == ()


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"sampling": pb.Sampling(temperature=-1)}, "temperature"),
        ({"sampling": pb.Sampling(temperature=math.nan)}, "temperature"),
        ({"sampling": pb.Sampling(temperature=math.inf)}, "temperature"),
        ({"sampling": pb.Sampling(top_p=1.01)}, "top_p"),
        ({"sampling": pb.Sampling(min_p=-0.1)}, "min_p"),
        ({"sampling": pb.Sampling(repeat_penalty=0)}, "repeat_penalty"),
        ({"sampling": pb.Sampling(top_k=2**31)}, "top_k"),
        ({"sampling": pb.Sampling(logit_bias={1: math.nan})}, "logit_bias"),
        ({"n": 257}, "n"),
        ({"top_logprobs": 5000}, "top_logprobs"),
        ({"deadline_seconds": -1.0}, "deadline_seconds"),
        ({"lane": 17}, "lane"),
        ({"stopping": pb.Stopping(strings=[""])}, "stop"),
        ({"stopping": pb.Stopping(strings=["x"] * 257)}, "stop"),
        ({"stopping": pb.Stopping(strings=["x" * 1025])}, "stop"),
        ({"stopping": pb.Stopping(max_tokens=1, min_tokens=2)}, "min_tokens"),
        ({"constraint": pb.Constraint(regex="")}, "regex"),
        ({"constraint": pb.Constraint(regex="a", trigger=pb.Trigger())}, "trigger"),
        ({"thinking": pb.ThinkingBudget(start="<t>")}, "thinking"),
        ({"thinking": pb.ThinkingBudget(start="<t>" * 1000, end="</t>")}, "thinking"),
        ({"text": None}, "prompt"),
        ({"text": None, "tokens": pb.PromptTokens()}, "prompt"),
        ({"text": None, "tokens": pb.PromptTokens(ids=[2**31])}, "prompt"),
    ],
)
def test_a_value_out_of_range_is_refused_and_its_field_named(
    changes: dict[str, object], param: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_for_tests(message(**changes), NO_DEFAULTS)

    assert caught.value.param == param


def test_invalid_params_of_a_model_are_ignored() -> None:
    params = {
        "temperature": "hot",
        "top_p": 3,
        "top_k": 2.5,
        "min_p": True,
        "stop": 5,
        "num_predict": -1,
        "mirostat": 2,
    }

    assert parse_model_defaults(params) == ModelDefaults(
        sampling={}, stop=(), max_tokens=None, seed=None
    )


def test_a_models_params_are_read_by_ollamas_names() -> None:
    params = {"stop": "x", "repeat_last_n": -1, "top_k": 20.0, "repeat_penalty": 1}

    assert parse_model_defaults(params) == ModelDefaults(
        sampling={"top_k": 20, "repeat_penalty": 1.0, "repeat_last_n": 1 << 20},
        stop=("x",),
        max_tokens=None,
        seed=None,
    )


def test_load_settings_are_parsed_and_absent_ones_stay_none() -> None:
    sent = pb.ModelSettings(context_length=0, tensor_split=[0.5, 0.5], pin=False, gpu_layers=-1)

    assert parse_model_settings(sent) == ModelSettings(
        context_length=0, tensor_split=(0.5, 0.5), pin=False, gpu_layers=-1
    )


@pytest.mark.parametrize(
    ("sent", "param"),
    [
        (pb.ModelSettings(cache_type_k="f12"), "cache_type_k"),
        (pb.ModelSettings(max_sequences=0), "max_sequences"),
        (pb.ModelSettings(gpu_layers=-2), "gpu_layers"),
        (pb.ModelSettings(tensor_split=[-1.0]), "tensor_split"),
        (pb.ModelSettings(tensor_split=[math.nan]), "tensor_split"),
        (pb.ModelSettings(keep_alive_seconds=math.nan), "keep_alive_seconds"),
        (pb.ModelSettings(priority=11), "priority"),
    ],
)
def test_a_load_setting_out_of_range_is_refused_and_named(
    sent: pb.ModelSettings, param: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_model_settings(sent)

    assert caught.value.param == param


def test_a_private_key_goes_into_the_realm_and_its_keys_reach_the_runner() -> None:
    submit = parse_for_tests(message(tenant="alice", private_cache_key=b"k" * 32), NO_DEFAULTS)

    assert submit.realm == "alice+" + "k" * 32
    assert [key.id for key in submit.cache_keys] == [b"i" * 16]


def test_a_request_that_may_not_be_cached_gets_no_keys() -> None:
    assert parse_for_tests(message(no_cache=True), NO_DEFAULTS).cache_keys == ()


@pytest.mark.parametrize("length", [1, 31, 33])
def test_a_private_key_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(InvalidRequest, match="a private cache key has 32 bytes"):
        parse_for_tests(message(private_cache_key=b"k" * length), NO_DEFAULTS)
