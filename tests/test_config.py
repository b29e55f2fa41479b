from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from kamon.config import Config, make_config, read_settings
from kamon.errors import ConfigError


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_embd": 16, "n_head": 3}, "set n_head to 1 or 2 or 4"),
        ({"n_layer": 0}, "n_layer must be 1 or more, not 0"),
        ({"n_embd": -16}, "n_embd must be 1 or more"),
        ({"block_size": 0}, "block_size must be 1 or more"),
        ({"num_steps": 0}, "num_steps must be 1 or more"),
        ({"batch_size": -1}, "batch_size must be 1 or more"),
        ({"n_embd": 16.0}, "n_embd must be a whole number, not 16.0"),
        ({"n_layer": True}, "n_layer must be a whole number, not True"),
        ({"seed": "1"}, "seed must be a whole number, not '1'"),
        ({"learning_rate": "big"}, "learning_rate must be a number, not 'big'"),
        ({"learning_rate": 0}, "learning_rate must be above 0"),
        ({"learning_rate": math.inf}, "learning_rate must be above 0 and finite"),
        ({"eps_adam": 0.0}, "eps_adam must be above 0"),
        ({"beta1": 1.0}, "beta1 must be from 0 to below 1"),
        ({"beta2": -0.1}, "beta2 must be from 0 to below 1"),
        ({"std": -1}, "std must be 0 or more"),
        ({"schedule": "sine"}, "schedule must be linear or cosine, not 'sine'"),
        ({"schedule": 1}, "schedule must be linear or cosine, not 1"),
        ({"warmup_steps": -1}, "warmup_steps must be 0 or more, not -1"),
        ({"dropout": 1.0}, "dropout must be from 0 to below 1"),
        ({"weight_decay": -0.1}, "weight_decay must be 0 or more and finite"),
        ({"temperature": math.nan}, "temperature must be 0 or more and finite, not nan"),
        ({"temperature": -0.5}, "temperature must be 0 or more"),
        ({"temperature": math.inf}, "temperature must be 0 or more and finite"),
        ({"n_layers": 2}, "unknown setting 'n_layers'\nhint: did you mean 'n_layer'?"),
        ({"zzz": 2}, "unknown setting 'zzz'\nhint: choose from n_layer"),
        ({"vocab_size": 5}, "vocab_size cannot be set"),
    ],
)
def test_what_cannot_be_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_config(settings)
    assert message in str(caught.value)


def test_defaults_are_the_originals() -> None:
    c = Config()
    assert (c.n_layer, c.n_embd, c.n_head, c.block_size, c.vocab_size) == (1, 16, 4, 16, 27)
    assert (c.learning_rate, c.beta1, c.beta2, c.eps_adam) == (0.01, 0.85, 0.99, 1e-8)
    assert (c.num_steps, c.batch_size, c.std, c.seed, c.temperature) == (1000, 1, 0.08, 42, 0.5)


def test_toml(tmp_path: Path) -> None:
    path = tmp_path / "kamon.toml"
    path.write_text("n_layer = 2\nlearning_rate = 1\n")
    assert read_settings(path) == {"n_layer": 2, "learning_rate": 1}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"n_layr = 2", "unknown setting 'n_layr' in {path}\nhint: did you mean 'n_layer'?"),
        (b"n_layer = ", "{path} is not valid TOML: "),
        (b"n_layer = 'two'", "n_layer must be a whole number, not 'two'"),
        (b"[model]\nn_layer = 2", "unknown setting 'model' in {path}"),
        (b"\xff", "{path} is not UTF-8"),
    ],
)
def test_bad_toml(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "kamon.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_settings(path)
    assert message.format(path=path) in str(caught.value)


def test_toml_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        read_settings(tmp_path / "none.toml")
