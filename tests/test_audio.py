"""Audio as data: files, pieces, sample rates and labels."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from commanding import refused, run
from feeding import taking
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto
from PIL import Image

from onnxopt.data import open_data
from onnxopt.errors import OnnxoptError

WAVES = taking(x=["n", 8])
RATE = 16000

Recorded = Callable[..., Path]


@pytest.fixture
def recorded(tmp_path: Path) -> Recorded:
    """Writes recordings, by the name of the file, into a folder."""

    def write(rate: int = RATE, **waves: Any) -> Path:
        for name, wave in waves.items():
            file = tmp_path / "sounds" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(
                file, np.asarray(wave, np.float32), rate, subtype="FLOAT" if file.suffix == ".wav" else None
            )
        return tmp_path / "sounds"

    return write


def rows(data: Any) -> list[list[float]]:
    return sorted(row for batch in data for row in batch.feeds["x"].reshape(batch.size, -1).tolist())


@given(st.integers(1, 60), st.integers(2, 20))
def test_a_file_becomes_whole_pieces_of_the_model_s_length(tmp_path_factory: Any, count: int, length: int) -> None:
    file = tmp_path_factory.getbasetemp() / "long.wav"
    wave = np.arange(1, count + 1, dtype=np.float32) / 64
    soundfile.write(file, wave, RATE, subtype="FLOAT")
    whole = max(1, count // length)
    padded = np.pad(wave, (0, max(0, length - count)))
    wanted = padded[: whole * length].reshape(whole, length).tolist()
    for shape in (["n", length], ["n", 1, length], ["n", length, 1], [1, length]):
        data = open_data(file, taking(x=shape), sample_rate=RATE)
        assert rows(data) == wanted
        assert {batch.feeds["x"].ndim for batch in data} == {len(shape)}


def test_whole_files_where_the_model_takes_any_length(recorded: Recorded) -> None:
    folder = recorded(**{"a.wav": [0.5] * 3, "b/c.flac": [0.25] * 40, ".hidden.wav": [1.0], "d.txt.wav": [0.125]})
    data = open_data(folder, taking(x=["n", "time"]), sample_rate=RATE)
    assert sorted(batch.feeds["x"].shape for batch in data) == [(1, 1), (1, 3), (1, 40)]
    assert len({data.digest(), open_data(folder / "a.wav", WAVES, sample_rate=RATE).digest()}) == 2
    with pytest.raises(OnnxoptError, match=r"x' is float32 \[4, time\], and whole recordings differ in length"):
        open_data(folder, taking(x=[4, "time"]), sample_rate=RATE)


def test_channels_are_averaged_and_class_folders_are_labels(recorded: Recorded) -> None:
    folder = recorded(**{"dog/a.wav": np.tile([0.5, 0.25], (16, 1)), "cat/b.wav": [0.125] * 8})
    found = sorted((batch.labels.tolist(), batch.feeds["x"][0, 0].item())
                   for batch in open_data(folder, WAVES, sample_rate=RATE))  # fmt: skip
    assert found == [([0], 0.125), ([1], 0.375), ([1], 0.375)], "a label for each piece"


def test_a_folder_with_images_is_one_of_images(recorded: Recorded) -> None:
    folder = recorded(**{"a.wav": [0.5] * 8})
    Image.new("RGB", (8, 8)).save(folder / "a.png")
    with pytest.raises(OnnxoptError, match="only audio has a sample rate; leave it out"):
        open_data(folder, WAVES, sample_rate=RATE)


def test_another_sample_rate_is_refused(recorded: Recorded) -> None:
    folder = recorded(rate=8000, **{"a.wav": [0.5] * 8})
    with pytest.raises(OnnxoptError, match=r"a\.wav: has 8000 samples a second, and the model takes 16000"):
        open_data(folder, WAVES, sample_rate=RATE)
    with pytest.raises(OnnxoptError, match=r"a\.wav: has 8000 samples a second; say how many .* --sample-rate 8000"):
        open_data(folder, WAVES)


def test_what_is_no_audio_is_one_sentence(recorded: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = recorded(**{"a.wav": [0.5] * 8})
    for session, message in (
        (taking(x=["n", 3, 8]), r"'x' is float32 \[n, 3, 8\]; audio is for inputs of floats \[batch, time\]"),
        (taking(TensorProto.INT64, x=["n", 8]), "audio is for inputs of floats"),
        (taking(x=["n", 8], y=["n", 8]), r"the model has 2 inputs \(x, y\); audio is for one"),
        (taking(x=[4, 8]), "holds 1 samples, the model takes 4 at once"),
    ):
        with pytest.raises(OnnxoptError, match=message):
            open_data(folder, session, sample_rate=RATE)
    whole = (folder / "a.wav").read_bytes()
    for content in (b"", b"RIFF", whole[:20], b"no audio" * 9):
        (folder / "a.wav").write_bytes(content)
        with pytest.raises(OnnxoptError, match=r"a\.wav: (not audio that can be read|holds no samples)"):
            open_data(folder, WAVES, sample_rate=RATE)
    recorded(**{"a.wav": [0.5, np.nan] * 4})
    with pytest.raises(OnnxoptError, match=r"a\.wav: input 'x' holds nan, expected finite numbers"):
        list(open_data(folder, WAVES, sample_rate=RATE))
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(OnnxoptError, match=r"soundfile is not installed, .*: pip install soundfile$"):
        open_data(folder, WAVES, sample_rate=RATE)


def test_a_sample_rate_without_audio_is_said(tmp_path: Path) -> None:
    words = ("optimize", tmp_path / "m.onnx", "-o", tmp_path / "o.onnx", "--sample-rate", 8000)
    refused(run(*words), "--sample-rate 8000 is for audio; give it with --data FOLDER")
