"""Decoding: what a sentence becomes depends on the model and that sentence alone."""
from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest

import engine
from microtfm import decode
from microtfm.data import pad_sources
from microtfm.settings import ModelSettings
from microtfm.tokens import BOS, EOS, PAD
from microtfm.transformer import Transformer

V = 14


def random_model(seed: int) -> Transformer:
    """An untrained model with weights so large that it has opinions."""
    engine.seed(seed)
    model = Transformer(ModelSettings(d_model=16, heads=2, layers=2, ffn=32, tie="none", norm="pre"), V, V)
    for _, parameter in model.named_parameters():
        parameter[...] = parameter.numpy() * 3
    model.eval()
    return model


def sentences(seed: int, count: int = 7) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(4, V, rng.integers(1, 9)).tolist() for _ in range(count)]


SEARCHES = {
    "greedy": lambda model, source, cache: decode.greedy(model, source, cache=cache),
    "beam 1": lambda model, source, cache: decode.beam(model, source, 1, cache=cache),
    "beam 3": lambda model, source, cache: decode.beam(model, source, 3, cache=cache),
    "beam 4, no penalty": lambda model, source, cache: decode.beam(model, source, 4, 0.0, cache=cache),
}


@pytest.mark.parametrize("name", SEARCHES)
@pytest.mark.parametrize("seed", range(3))
def test_cache_batch_and_order_change_nothing(name: str, seed: int) -> None:
    model, rows, search = random_model(seed), sentences(seed), SEARCHES[name]
    together = search(model, pad_sources(rows), True)
    assert search(model, pad_sources(rows), False) == together
    assert [search(model, pad_sources([row]), True)[0] for row in rows] == together
    order = np.random.default_rng(seed).permutation(len(rows))
    shuffled = search(model, pad_sources([rows[i] for i in order], length=16), True)
    assert [shuffled[list(order).index(i)] for i in range(len(rows))] == together


@pytest.mark.parametrize("seed", range(3))
def test_a_beam_of_one_is_greedy(seed: int) -> None:
    model, source = random_model(seed), pad_sources(sentences(seed))
    assert decode.beam(model, source, 1) == decode.greedy(model, source)


def log_probability(model: Transformer, source: np.ndarray, ids: list[int]) -> float:
    """Of ids and <eos>, by one teacher-forced pass."""
    with engine.no_grad():
        logits = model(source, np.array([[BOS, *ids]]))
        scores = engine.log_softmax(logits, axis=-1).numpy()[0]
    return float(sum(scores[t, token] for t, token in enumerate([*ids, EOS])))


@pytest.mark.parametrize("penalty", [0.0, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_a_beam_wider_than_the_tree_finds_the_best_of_all(penalty: float, seed: int) -> None:
    model, source = random_model(seed), pad_sources([[5, 6, 7]])
    tokens = [token for token in range(V) if token not in (PAD, BOS, EOS)]
    longest = [list(ids) for ids in itertools.product(tokens, repeat=3)]
    with engine.no_grad():
        logits = model(np.repeat(source, len(longest), axis=0), np.array([[BOS, *ids[:2]] for ids in longest]))
        scores = engine.log_softmax(logits, axis=-1).numpy().astype(float)                         # (N, 3, V)
    values = {}
    for ids, row in zip(longest, scores, strict=True):
        said = [row[t, token] for t, token in enumerate(ids)]
        for n in range(3):
            values[tuple(ids[:n])] = (sum(said[:n]) + row[n, EOS]) / (n + 1) ** penalty
        values[tuple(ids)] = sum(said) / 3 ** penalty     # cut off at the limit
    found = decode.beam(model, source, len(tokens) ** 2 + 1, penalty, max_length=3)[0]
    assert tuple(found) == max(values, key=lambda ids: values[ids])


@pytest.mark.parametrize("seed", range(3))
def test_a_wider_beam_finds_no_less_probable_sentence_on_the_whole(seed: int) -> None:
    model, rows = random_model(seed), sentences(seed)

    def total(beam: int) -> float:
        return sum(log_probability(model, pad_sources([row]), ids)
                   for row, ids in zip(rows, decode.beam(model, pad_sources(rows), beam, 0.0), strict=True))

    assert total(6) >= total(1) - 1e-3


def test_length_penalty_favours_longer_translations() -> None:
    model, source = random_model(1), pad_sources(sentences(1))
    lengths = [sum(map(len, decode.beam(model, source, 4, penalty))) for penalty in (0.0, 1.0, 3.0)]
    assert lengths == sorted(lengths)


def test_no_translation_is_longer_than_its_limit_or_holds_a_mark() -> None:
    model, rows = random_model(0), sentences(0)
    source = pad_sources(rows)
    assert decode.limits(source).tolist() == [2 * (len(row) + 1) + 20 for row in rows]
    for found in (decode.greedy(model, source, max_length=5), decode.beam(model, source, 3, max_length=5)):
        assert max(map(len, found)) <= 5
    for ids in decode.greedy(model, source) + decode.beam(model, source, 3):
        assert not {PAD, BOS, EOS} & set(ids)


@pytest.mark.parametrize("search", [decode.greedy, decode.beam])
def test_a_search_can_be_ended_before_any_token(search: Callable[..., list[list[int]]]) -> None:
    model, source = random_model(0), pad_sources(sentences(0))
    wanted, left = search(model, source), [3]

    def count() -> None:
        left[0] -= 1
        if left[0] < 0:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        search(model, source, on_token=count)
    assert left == [-1] and search(model, source) == wanted


def test_nothing_is_recorded() -> None:
    model = random_model(0)
    state = engine.random.get_state()
    decode.greedy(model, pad_sources([[5, 6]]))
    assert engine.random.get_state() == state
    assert all(parameter.grad is None for parameter in model.parameters())
