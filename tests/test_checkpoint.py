"""Checkpoints: training goes on bit for bit in a new process; any file that is none is a CheckpointError."""

import json
import os
import stat
import struct
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import safetensors.numpy

import fastmlp
from fastmlp import MLP, ArgumentError, CheckpointError
from fastmlp.kernels.contract import OPTIMIZERS

HOME = Path(fastmlp.__file__).parents[1]


def data():
    rng = np.random.default_rng(11)
    return rng.standard_normal((50, 5)).astype(np.float32), rng.integers(0, 3, 50)


def network(backend="numpy", **settings):
    return MLP((5, 7, 3), "gelu", loss="cross_entropy", backend=backend, **settings)


def trained(path, **settings):
    net = network(**settings)
    net.fit(*data(), epochs=2, batch_size=16)
    net.save(path)
    return net


def bits(net):
    return net.parameters.tobytes(), net.optimizer_state.tobytes(), net.updates, net.epochs, net.random_state


RESUME = """
import sys
import numpy as np
from fastmlp import MLP
folder, backend = sys.argv[1:]
with np.load(folder + "/data.npz") as stored:
    x, y = stored["x"], stored["y"]
for optimizer in sys.stdin.read().split():
    net = MLP.load(f"{folder}/{optimizer}", backend=backend)
    net.fit(x, y, epochs=3, batch_size=16)
    net.save(f"{folder}/{optimizer}")
"""


def test_training_goes_on_in_a_new_process_bit_for_bit(backend_name, tmp_path):
    x, y = data()
    straight = {}
    for optimizer in OPTIMIZERS:
        settings = {"optimizer": optimizer, "backend": backend_name, "l2": 0.01, "learning_rate": 0.003}
        straight[optimizer], stopped = network(**settings), network(**settings)
        straight[optimizer].fit(x, y, epochs=7, batch_size=16)
        stopped.fit(x, y, epochs=4, batch_size=16)
        stopped.save(tmp_path / optimizer)
    np.savez(tmp_path / "data.npz", x=x, y=y)
    subprocess.run(
        [sys.executable, "-c", RESUME, str(tmp_path), backend_name],
        input=" ".join(OPTIMIZERS),
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(HOME)},
    )
    for optimizer, expected in straight.items():
        resumed = MLP.load(tmp_path / optimizer, backend=backend_name)
        assert bits(resumed) == bits(expected), optimizer
        assert resumed.configuration == expected.configuration


def test_all_settings_come_back(tmp_path):
    net = MLP(
        (2, 3, 4, 2), ("sine", "softplus"), "tanh", "half_mse", "adamw", 0.123, "float64", "numpy", 5,
        l2=0.1, momentum=0.2, beta1=0.3, beta2=0.4, epsilon=0.5,
    )  # fmt: skip
    net.train_step([[1.0, 2.0]], [[0.5, 0.5]])
    net.save(tmp_path / "net")
    again = MLP.load(tmp_path / "net", backend="numpy")
    assert again.configuration == net.configuration
    assert bits(again) == bits(net)


def test_a_network_that_diverged_comes_back_as_it_is(tmp_path):
    net = network()
    net.weights[0] = np.nan
    net.biases[0] = -np.inf
    net.save(tmp_path / "net")
    assert bits(MLP.load(tmp_path / "net", backend="numpy")) == bits(net)


def test_the_tensors_are_pytorchs(tmp_path):
    net = trained(tmp_path / "net", optimizer="adam")
    stored = safetensors.numpy.load_file(tmp_path / "net")
    assert len(stored) == 4 * 3
    for i, (w, b) in enumerate(zip(net.weights, net.biases, strict=True)):
        np.testing.assert_array_equal(stored[f"layers.{i}.weight"], w.T)
        np.testing.assert_array_equal(stored[f"layers.{i}.bias"], b)
        for slot in range(2):
            np.testing.assert_array_equal(
                stored[f"optimizer.{slot}.layers.{i}.weight"], net.structure.weights(net.optimizer_state[slot])[i].T
            )


def test_a_backend_that_does_not_exist_is_no_matter_of_the_file(tmp_path):
    trained(tmp_path / "net")
    with pytest.raises(ArgumentError, match="Did you mean 'numpy'"):
        MLP.load(tmp_path / "net", backend="nunpy")


def test_files_that_cannot_be_opened_say_so(tmp_path):
    with pytest.raises(FileNotFoundError):
        MLP.load(tmp_path / "nothing")
    with pytest.raises(IsADirectoryError):
        MLP.load(tmp_path)
    with pytest.raises(FileNotFoundError):
        network().save(tmp_path / "no" / "folder")


def test_writing_is_all_or_nothing(tmp_path, monkeypatch):
    path = tmp_path / "net"
    trained(path)
    old = path.read_bytes()

    def fail(*args):
        raise OSError(28, "No space left on device")

    for step in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, step, fail)
            with pytest.raises(OSError, match="No space left"):
                network(seed=9).save(path)
        assert path.read_bytes() == old
        assert os.listdir(tmp_path) == ["net"]
    network(seed=9).save(path)
    assert path.read_bytes() != old
    assert os.listdir(tmp_path) == ["net"]


def test_a_checkpoint_has_the_rights_of_any_new_file_and_follows_links(tmp_path):
    path, link = tmp_path / "net", tmp_path / "link"
    link.symlink_to(path)
    network().save(link)
    (tmp_path / "other").touch()
    assert link.is_symlink()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "other").stat().st_mode)
    assert bits(MLP.load(link, backend="numpy")) == bits(network())


def test_a_checkpoint_keeps_the_rights_of_what_it_replaces_and_takes_any_name(tmp_path):
    path = tmp_path / "net"
    path.touch(0o600)
    network().save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    long = tmp_path / ("n" * 255)
    for name in (long, os.fsencode(tmp_path / "bytes")):
        network().save(name)
        assert bits(MLP.load(name, backend="numpy")) == bits(network())


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_written_to(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as pool:
        content = pool.submit(pipe.read_bytes)
        network().save(pipe)
        (tmp_path / "net").write_bytes(content.result())
    assert pipe.is_fifo()
    assert bits(MLP.load(tmp_path / "net", backend="numpy")) == bits(network())


def refused(path, content):
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        MLP.load(path, backend="numpy")
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_every_truncation_is_refused(tmp_path):
    trained(tmp_path / "net")
    content = (tmp_path / "net").read_bytes()
    for length in range(len(content)):
        if length < 200 or length % 37 == 0 or len(content) - length < 50:
            refused(tmp_path / "cut", content[:length])
    refused(tmp_path / "long", content + b"\0")


@pytest.mark.parametrize("content", [b"", b"\x80\x04N.", b"PK\x03\x04" + bytes(99), struct.pack("<Q", 2**63) + b"{}"])
def test_files_of_another_kind_are_refused(tmp_path, content):
    refused(tmp_path / "net", content)


def parts(path):
    """Header and tensor bytes of a file, and the description within the header."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    return header, content[8 + length :], json.loads(header["__metadata__"]["fastmlp"])


def whole(header, tensors):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + tensors


def altered(path, change):
    """The file with its description changed: by a function of it, or to another text."""
    header, tensors, description = parts(path)
    if callable(change):
        change(description)
        change = json.dumps(description)
    header["__metadata__"]["fastmlp"] = change
    return whole(header, tensors)


def setting(name, value):
    return lambda description: description["configuration"].update({name: value})


def entry(name, value):
    return lambda description: description.update({name: value})


def random(**changes):
    return lambda description: description["random_state"].update(changes)


LIES = {
    "not JSON": "{",
    "a number": "1",
    "nothing": "null",
    "deep": "[" * 100_000 + "]" * 100_000,
    "format": entry("format", 2),
    "no format": lambda description: description.pop("format"),
    "no configuration": lambda description: description.pop("configuration"),
    "no random state": lambda description: description.pop("random_state"),
    "an entry more": entry("more", 1),
    "configuration a list": entry("configuration", []),
    "a setting more": setting("more", 1),
    "a setting less": lambda description: description["configuration"].pop("loss"),
    "learning rate NaN": setting("learning_rate", float("nan")),
    "learning rate infinite": setting("learning_rate", float("inf")),
    "learning rate beyond float": setting("learning_rate", 10**400),
    "learning rate zero": setting("learning_rate", 0),
    "learning rate text": setting("learning_rate", "0.1"),
    "beta2": setting("beta2", 1.0),
    "momentum": setting("momentum", -0.1),
    "epsilon": setting("epsilon", 0.0),
    "l2": setting("l2", -1.0),
    "huge widths": setting("layers", [10**12, 10**12]),
    "huger widths": setting("layers", [10**30, 10**30]),
    "huge middle": setting("layers", [5, 10**12, 3]),
    "negative width": setting("layers", [5, -7, 3]),
    "true width": setting("layers", [5, True, 3]),
    "float width": setting("layers", [5, 7.0, 3]),
    "one width": setting("layers", [5]),
    "layers a number": setting("layers", 5),
    "layers text": setting("layers", "573"),
    "other width": setting("layers", [5, 8, 3]),
    "a layer more": setting("layers", [5, 7, 3, 3]),
    "unknown activation": setting("activation", ["rely", "identity"]),
    "too many activations": setting("activation", ["relu"] * 4),
    "activation of lists": setting("activation", [[], {}]),
    "logits squashed": setting("activation", ["relu", "tanh"]),
    "unknown loss": setting("loss", "mss"),
    "loss a list": setting("loss", ["mse"]),
    "other optimizer": setting("optimizer", "sgd"),
    "unknown optimizer": setting("optimizer", "adams"),
    "optimizer a dict": setting("optimizer", {}),
    "other dtype": setting("dtype", "float64"),
    "unknown dtype": setting("dtype", "float8"),
    "dtype null": setting("dtype", None),
    "dtype a list": setting("dtype", [["a", "b"]]),
    "negative updates": entry("updates", -1),
    "updates a float": entry("updates", 1.5),
    "updates true": entry("updates", True),
    "updates beyond int64": entry("updates", 2**63),
    "epochs text": entry("epochs", "2"),
    "random state a number": entry("random_state", 1),
    "random state empty": entry("random_state", {}),
    "another generator": random(bit_generator="MT19937"),
    "random state too large": random(state={"state": 2**128, "inc": 1}),
    "random state negative": random(state={"state": -1, "inc": 1}),
    "random state a float": random(state={"state": 1.5, "inc": 1}),
    "random state text": random(state={"state": "1", "inc": 1}),
    "random increment missing": random(state={"state": 1}),
    "uinteger too large": random(uinteger=2**70),
    "uinteger text": random(uinteger="x"),
    "has_uint32 null": random(has_uint32=None),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_description_that_lies_is_refused(tmp_path, lie):
    trained(tmp_path / "net", optimizer="adam")
    refused(tmp_path / "bad", altered(tmp_path / "net", LIES[lie]))


def test_the_way_these_files_are_altered_is_itself_sound(tmp_path):
    net = trained(tmp_path / "net", optimizer="adam")
    (tmp_path / "same").write_bytes(altered(tmp_path / "net", lambda description: None))
    assert bits(MLP.load(tmp_path / "same", backend="numpy")) == bits(net)


def test_a_key_that_stands_twice_is_refused(tmp_path):
    trained(tmp_path / "net")
    header, tensors, description = parts(tmp_path / "net")
    text = json.dumps(header)
    twice = text.replace('"__metadata__": {', '"__metadata__": {"fastmlp": "{}", ', 1)
    assert "twice" in refused(tmp_path / "bad", whole(twice.encode(), tensors))
    bias = json.dumps(header["layers.0.bias"])
    twice = text[:-1] + f', "layers.0.bias": {bias}}}'
    assert "twice" in refused(tmp_path / "bad", whole(twice.encode(), tensors))
    inner = json.dumps(description)
    twice = inner[:-1] + ', "updates": 1}'
    assert "twice" in refused(tmp_path / "bad", altered(tmp_path / "net", twice))


def test_tensors_other_than_those_described_are_refused(tmp_path):
    trained(tmp_path / "net", optimizer="momentum")
    entry = {"fastmlp": parts(tmp_path / "net")[0]["__metadata__"]["fastmlp"]}
    tensors = safetensors.numpy.load_file(tmp_path / "net")

    def file(**changes):
        changed = {name: array for name, array in {**tensors, **changes}.items() if array is not None}
        return safetensors.numpy.save(changed, entry)

    weight, bias = tensors["layers.0.weight"], tensors["layers.0.bias"]
    for changes in (
        {"layers.0.weight": None},
        {"optimizer.0.layers.1.bias": None},
        {"layers.2.weight": weight},
        {"optimizer.1.layers.0.bias": bias},
        {"layers.0.weight": weight.T.copy()},
        {"layers.0.weight": weight.ravel()},
        {"layers.0.bias": bias[:, None]},
        {"layers.0.bias": bias.astype(np.float64)},
        {"layers.0.bias": bias.astype(np.int32)},
        {"layers.0.bias": bias.astype(np.float16)},
    ):
        (name,) = changes
        assert name in refused(tmp_path / "bad", file(**changes))
    assert "entry 'fastmlp'" in refused(tmp_path / "bad", safetensors.numpy.save(tensors))
    (tmp_path / "good").write_bytes(file())
    MLP.load(tmp_path / "good", backend="numpy")


def test_no_memory_is_taken_for_widths_that_the_file_does_not_hold(tmp_path, monkeypatch):
    trained(tmp_path / "net")
    monkeypatch.setattr("fastmlp.buffers.aligned_zeros", lambda *args: pytest.fail("allocated before the check"))
    refused(tmp_path / "bad", altered(tmp_path / "net", setting("layers", [5, 10**5, 3])))


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "net"
    trained(path, optimizer="adam")
    return path


@hypothesis.settings(max_examples=400, deadline=None)
@hypothesis.given(st.data())
def test_flipped_bytes_load_or_are_refused(sound, data):
    content = bytearray(sound.read_bytes())
    header = 8 + int.from_bytes(content[:8], "little")
    places = st.one_of(st.integers(0, 7), st.integers(8, header - 1), st.integers(header, len(content) - 1))
    for place in data.draw(st.lists(places, min_size=1, max_size=4)):
        content[place] = data.draw(st.integers(0, 255))
    path = sound.with_name("flipped")
    path.write_bytes(content)
    try:
        net = MLP.load(path, backend="numpy")
    except CheckpointError:
        return
    assert net.predict(np.zeros((2, net.layers[0]))).shape == (2, net.layers[-1])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@hypothesis.settings(max_examples=400, deadline=None)
@hypothesis.given(st.data())
def test_any_value_in_any_place_of_the_description_loads_or_is_refused(sound, data):
    def change(description):
        place = description
        while True:
            name = data.draw(st.sampled_from(sorted(place)))
            if not isinstance(place[name], dict) or data.draw(st.booleans()):
                break
            place = place[name]
        place[name] = data.draw(JSON)

    path = sound.with_name("described")
    path.write_bytes(altered(sound, change))
    try:
        net = MLP.load(path, backend="numpy")
    except CheckpointError:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a learning rate of 1e30 may be loaded, and diverges
        net.fit(np.zeros((4, net.layers[0])), np.zeros((4, net.layers[-1])) + 1 / 3, epochs=2, batch_size=2)
