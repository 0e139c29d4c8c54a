"""The translator: one path from text to text, whatever else is in the batch."""
from __future__ import annotations

import random
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny import corpus, pairs, settings

import engine
from microtfm import checkpoint, material, sentences, train, translator
from microtfm.errors import UserError
from microtfm.evaluate import exact_match
from microtfm.inspection import inspect
from microtfm.material import Texts
from microtfm.run_folder import RunFolder
from microtfm.settings import Settings
from microtfm.translator import Translator


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has learnt a little."""
    path = tmp_path_factory.mktemp("runs") / "run"
    train.train(settings(path, steps=150, validate_every=150, save_every=150, batch_tokens=120), corpus=corpus())
    return path


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


LINES = [a for a, _ in pairs()[::17]]


def test_each_line_has_its_translation_in_its_place(folder: Path) -> None:
    model = Translator.load(folder)
    together = model.translate(LINES)
    assert together == [model.translate([line])[0] for line in LINES]
    order = random.Random(0).sample(range(len(LINES)), len(LINES))
    assert model.translate([LINES[i] for i in order]) == [together[i] for i in order]
    assert len(set(together)) > 3


@pytest.mark.parametrize("beam", [1, 3])
def test_batches_and_the_cache_change_nothing(folder: Path, beam: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Translator.load(folder)
    lines = [*LINES, "一", "一二三四五六" * 4]
    together = model.translate(lines, beam)
    assert model.translate(lines, beam, cache=False) == together
    monkeypatch.setattr(translator, "BATCH_TOKENS", 9)
    assert model.translate(lines, beam) == together


def test_lines_without_text_stay_empty(folder: Path) -> None:
    found = Translator.load(folder).translate(["", "一二三", " \u3000\t", "\ufeff", "二"])
    assert found[0] == found[2] == ""
    assert found[1]
    assert Translator.load(folder).translate([]) == []


def test_text_that_was_never_seen_is_translated_somehow(folder: Path) -> None:
    odd = ["<pad>", "<bos> <eos>", "😀 emoji", "a\u2028b", "\x00", "Привет", "一" * 300]
    assert len(Translator.load(folder).translate(odd)) == len(odd)


def test_long_lines_are_translated_in_pieces_and_said(folder: Path) -> None:
    model = Translator.load(folder)
    long = "".join(f"{line}。" for line in LINES) * 4
    assert len(long) > model.max_length == 100 and model.piece_length == 0
    found = model.translate(["一", long, "", long])
    assert "2 of 4 lines (numbers 2, 4) had several sentences, where in training a line had one, or" in model.notices[0]
    parts = [f"{line}。" for line in LINES] * 4
    assert sentences.pieces(long, 100, len, 0) == parts
    assert found[1] == found[3] == sentences.joined(model.translate(parts))
    assert model.notices == []
    assert model.translate(["一" * 5_000])[0]
    model.piece_length = 12
    found = model.translate(["一", long])
    assert "1 of 2 lines (number 2) had more tokens than the 12 of a sentence in training" in model.notices[0]
    parts = sentences.pieces(long, 100, lambda part: len(model.source.encode(part)), 12)
    assert len(parts) < 4 * len(LINES) and all(part.endswith("。") for part in parts)
    assert found[1] == sentences.joined(model.translate(parts))


@pytest.mark.parametrize("beam", [1, 3])
@pytest.mark.parametrize("n", [1, 2, 5])
def test_pieces_translated_in_any_portions_make_the_same_lines(folder: Path, beam: int, n: int) -> None:
    model = Translator.load(folder)
    model.beam, model.max_length, model.piece_length = beam, 7, 7
    lines = ["", "一二三四五六" * 4, *LINES[:3], "六五四三二一一二三。" * 2]
    cut = model.cut(lines)
    assert list(map(len, cut))[:5] == [0, 4, 1, 1, 1]
    apart = [[text for piece in parts for text in model.translate_pieces([piece], n)] for parts in cut]
    assert apart == [model.translate_pieces(parts, n) for parts in cut]
    assert [model.together(parts, n) for parts in apart] == [
        [one.text for one in several] for several in model.candidates(lines, n)]
    assert model.noticed(lines, cut).texts() == model.notices and "2 of 6 lines (numbers 2, 6)" in model.notices[0]


def test_what_is_raised_before_a_token_ends_the_call(folder: Path) -> None:
    model = Translator.load(folder)

    def stop() -> None:
        raise InterruptedError

    model.on_token = stop
    for call in (model.translate, model.candidates, lambda lines: model.attention(lines[0])):
        with pytest.raises(InterruptedError):
            call(LINES[:1])
    model.on_token = lambda: None
    assert model.translate(LINES[:1]) == Translator.load(folder).translate(LINES[:1])


def test_where_lines_are_cut_follows_from_the_training_text() -> None:
    def found(several: int) -> int:
        texts = [("One two. Three.", "x")] * several + [("One two three.", "x")] * (1000 - several)
        chosen = Settings.from_dict({"tokens": {"kind": "word"}, "model": {"tie": "output"}})
        source, target, _ = material.tokenizers(Texts(texts, texts[:1]), chosen)
        learnt = material.prepare(Texts(texts, texts[:1]), chosen, source, target)
        return material.piece_length(Texts(texts, []), learnt)

    assert (found(0), found(9), found(10)) == (0, 0, 5)


def test_no_translation_contains_a_line_end(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Translator.load(folder)
    monkeypatch.setattr(type(model.target), "decode", lambda self, ids: " a\nb\r\u2028c\u0085\0\x1cd\n")
    assert model.translate(["一", ""]) == ["a b c d", ""]


def test_loading_disturbs_no_random_numbers_and_no_mode(folder: Path) -> None:
    state = engine.random.get_state()
    model = Translator.load(folder)
    assert engine.random.get_state() == state
    assert not model.model.training
    model.model.train()
    model.translate(["一"])
    assert model.model.training


def test_the_translator_scores_what_training_reported(folder: Path) -> None:
    found = checkpoint.load(folder / "model.safetensors").facts
    model, valid = Translator.load(folder), corpus()[1]
    said = exact_match(model.translate([a for a, _ in valid]), [b for _, b in valid])
    assert 0 <= said <= 1
    assert found["step"] == 150
    assert found["sentences"] == 12      # the sample that training scores


def test_attention_of_a_translation(folder: Path) -> None:
    translator = Translator.load(folder)
    for beam in (1, 3):
        target = translator.attention("一二三", beam)[2]
        assert " ".join(target[:-1]) == translator.translate(["一二三"], beam)[0]
    translator.max_length = translator.piece_length = 2
    with pytest.raises(UserError, match="translated in 2 pieces"):
        translator.attention("一二三")
    weights, source, target = Translator.load(folder).attention("一二三")
    assert weights.shape == (1, 2, len(target), len(source))
    assert source[:3] == ["一", "二", "三"]
    assert source[-1] == target[-1] == "<eos>"
    np.testing.assert_allclose(weights.sum(axis=-1), 1, rtol=1e-5)


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        Translator.load(tmp_path / "none")
    with pytest.raises(UserError, match=r"no config\.toml"):
        Translator.load(tmp_path)
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(UserError, match="file is not a checkpoint of microtfm"):
        Translator.load(tmp_path / "file")


def test_a_run_without_a_model(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    with pytest.raises(UserError, match="microtfm resume"):
        Translator.load(copy)


def test_a_truncated_model(copy: Path) -> None:
    data = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(data[:-100])
    with pytest.raises(UserError, match=r"model\.safetensors is damaged"):
        Translator.load(copy)


def test_a_model_of_another_vocabulary(copy: Path, tmp_path: Path) -> None:
    swapped = [("一", "one"), ("二", "two")] * 20
    train.train(settings(tmp_path / "other", steps=1), corpus=(swapped, swapped[:2]))
    for name in ("tokenizer.source.json", "tokenizer.target.json"):
        shutil.copy(tmp_path / "other" / name, copy / name)
    with pytest.raises(UserError, match="another vocabulary"):
        Translator.load(copy)


def test_a_model_of_another_shape_or_head_count(copy: Path) -> None:
    config = copy / "config.toml"
    text = config.read_text(encoding="utf-8")
    config.write_text(text.replace("heads = 2", "heads = 4"), encoding="utf-8")
    with pytest.raises(UserError, match="heads is 2 there and 4"):
        Translator.load(copy)
    config.write_text(text.replace("format_version = 3", "format_version = 7"), encoding="utf-8")
    with pytest.raises(UserError, match="format_version 7"):
        Translator.load(copy)
    config.write_text(text.replace("d_model", "d_modle"), encoding="utf-8")
    with pytest.raises(UserError, match=r"Did you mean model\.d_model"):
        Translator.load(copy)


def test_a_model_of_another_run_of_the_same_shape(copy: Path, tmp_path: Path) -> None:
    """Another seed; or the settings of one run beside the model of another; or a folder that denies whose it is."""
    other, config = tmp_path / "other", (copy / "config.toml").read_text(encoding="utf-8")
    train.train(replace(settings(other, steps=2), seed=2), corpus=corpus())
    shutil.copy(other / "config.toml", copy / "config.toml")
    with pytest.raises(UserError, match="belongs to another run"):
        Translator.load(copy)
    code = next(line for line in config.splitlines() if line.startswith("run = "))
    for text, says in ((config.replace(code, ""), "lost its line"), (config.replace(code, "run = 3"), "lost its line"),
                       (config.replace("format_version = 3", "format_version = 1"), "unknown setting run"),
                       (config.replace("format_version = 3", "format_version = 1").replace(code, ""), "another run"),
                       (config.replace("format_version = 3", "format_version = true"), "format_version True"),
                       (config[:config.index("[tokens]")], "is cut short: its last line")):
        (copy / "config.toml").write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match=says):
            Translator.load(copy)


def test_what_may_be_edited_in_a_config(copy: Path) -> None:
    """All but the model's shape: rates, ends, dropout and paths change no number that is stored."""
    before = Translator.load(copy)
    config = copy / "config.toml"
    text = config.read_text(encoding="utf-8")
    for old, new in (("lr = 0.01", "lr = 0.5"), ("steps = 150", "steps = 9"), ("dropout = 0.1", "dropout = 0.3"),
                     ("seed = 1", "seed = 5")):
        assert old in text
        config.write_text(text.replace(old, new), encoding="utf-8")
        after = Translator.load(copy)
        assert all((after.model.state_dict()[k] == v).all() for k, v in before.model.state_dict().items())


def test_a_model_too_large_to_exist_is_refused_before_it_is_made(copy: Path) -> None:
    config = copy / "config.toml"
    text = config.read_text(encoding="utf-8")
    config.write_text(text.replace("d_model = 16", "d_model = 16000000000"), encoding="utf-8")
    for act in (Translator.load, train.resume, inspect):
        with pytest.raises(UserError, match="d_model is 16 there and 16000000000"):
            act(copy)


def test_a_state_is_no_model(copy: Path) -> None:
    shutil.copy(copy / "last/state.safetensors", copy / "model.safetensors")
    with pytest.raises(UserError, match="does not fit"):
        Translator.load(copy)


def test_weights_missing_from_the_checkpoint_are_named(copy: Path) -> None:
    found = checkpoint.load(copy / "model.safetensors")
    arrays = dict(found.arrays)
    name = next(iter(arrays))
    del arrays[name]
    checkpoint.save(copy / "model.safetensors", arrays, found.facts)
    with pytest.raises(UserError, match=f"{name} is missing"):
        Translator.load(copy)


def test_a_missing_or_damaged_tokenizer(copy: Path) -> None:
    (copy / "tokenizer.target.json").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match="tokenizer"):
        Translator.load(copy)
    (copy / "tokenizer.target.json").unlink()
    with pytest.raises(UserError, match="tokenizer"):
        Translator.load(copy)
    assert RunFolder.open(copy).path == copy
