"""Compressed models run where the session options say: on execution providers, or on the CPU with a warning."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import commanding
import numpy as np
import onnx
import onnxruntime
import pytest
from builders import mlp
from compressing import compressed
from test_runtime import CPU, matmul, rows
from test_runtimes import packages, python_with

import check_gpu
import onnxopt
from onnxopt import OnnxoptError, native, runtime
from onnxopt.measure.benchmark.worker import Worker

CHECK_GPU = Path(check_gpu.__file__)
DIGITS = Path(__file__).parent.parent / "models" / "digits.onnx"
OPENVINO = ("1.24.1", "onnxruntime-openvino")
OPENVINO_PLUGIN = ("1.8.1", "onnxruntime-ep-openvino")
NO_FALLBACK = "session.disable_cpu_ep_fallback"


def options(**entries: str) -> onnxruntime.SessionOptions:
    made = onnxruntime.SessionOptions()
    for name, value in entries.items():
        made.add_session_config_entry(f"onnxopt.ep.{name.replace('_', '.')}", value)
    return made


def check_output(session: onnxruntime.InferenceSession) -> None:
    x = {"x": rows(2)}
    plain = onnxruntime.InferenceSession(matmul().SerializeToString(), providers=CPU)
    np.testing.assert_array_equal(session.run(None, x)[0], plain.run(None, x)[0])


def test_a_missing_provider_is_warned_of(capfd: pytest.CaptureFixture[str]) -> None:
    """By ONNX Runtime's own logger, once for each; the model runs on the CPU."""
    onnxruntime.set_default_logger_severity(2)  # commands that ran in this process before have silenced it
    made = options(**{"0_name": "XNNPACK", "0_options": "intra_op_num_threads=1;x=", "1_name": "Nonsense"})
    onnxopt.register(made)
    check_output(onnxruntime.InferenceSession(compressed(matmul()), made, providers=CPU))
    lines = [line for line in capfd.readouterr().err.splitlines() if "W:onnxruntime" in line]
    for n, name in ((0, "XNNPACK"), (1, "Nonsense")):
        (line,) = (line for line in lines if f"onnxopt.ep.{n}.name is '{name}'" in line)
        assert "the model runs without it. It said: " in line


def test_options_of_a_provider_are_pairs() -> None:
    for text in ("device_type", "a=b;c", ";a=b"):
        with pytest.raises(OnnxoptError, match=f"onnxopt.ep.0.options is '{text}', expected key=value;key=value"):
            onnxopt.register(options(**{"0_name": "XNNPACK", "0_options": text}))


def test_without_the_cpu_a_model_without_a_provider_is_refused() -> None:
    made = options()
    made.add_session_config_entry(NO_FALLBACK, "1")
    onnxopt.register(made)
    made.add_session_config_entry(NO_FALLBACK, "0")
    with pytest.raises(Exception, match="fallback to CPU EP has been explicitly disabled"):
        onnxruntime.InferenceSession(compressed(matmul()), made)


def test_the_inner_session_has_the_users_threads(files: list[str]) -> None:
    command = [sys.executable, "-c", THREADS, files[0], str(native.library_path())]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) == 2 * 4  # either session's pool, beside the thread that runs


def test_the_inner_session_writes_no_profile(tmp_path: Path) -> None:
    made = options()
    made.enable_profiling, made.profile_file_prefix = True, str(tmp_path / "profile")
    onnxopt.register(made)
    session = onnxruntime.InferenceSession(compressed(matmul()), made, providers=CPU)
    check_output(session)
    path = Path(session.end_profiling())
    assert list(tmp_path.iterdir()) == [path]
    kernels = {event["args"].get("op_name") for event in json.loads(path.read_text()) if "args" in event}
    assert "CompressedModel" in kernels and "MatMul" not in kernels


def test_an_outer_model_in_the_runtimes_own_format(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The inner one is not in it, whatever the options say of the outer one."""
    writing, reading = options(), options()
    writing.optimized_model_filepath = str(tmp_path / "model.ort")
    writing.add_session_config_entry("session.save_model_format", "ORT")
    reading.add_session_config_entry("session.load_model_format", "ORT")
    for made, model in ((writing, compressed(matmul())), (reading, str(tmp_path / "model.ort"))):
        onnxopt.register(made)
        check_output(onnxruntime.InferenceSession(model, made, providers=CPU))
    assert "the model runs on the CPU" not in capfd.readouterr().err


def test_providers_by_short_names() -> None:
    with runtime.providers(["cpu"]):
        assert runtime.providers_in_use() == ("CPUExecutionProvider",)
        assert onnxopt.load(DIGITS).get_providers() == CPU
        with Worker(DIGITS, [{"input": np.zeros((1, 1, 8, 8), np.float32)}], None) as worker:
            assert len(worker.block(2)) == 2
    assert runtime.providers_in_use() == ()


def test_a_provider_that_falls_back_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["FakeExecutionProvider", *CPU])
    with runtime.providers(["Fake"]), pytest.warns(UserWarning), pytest.raises(OnnxoptError, match="cannot be used"):
        onnxopt.load(DIGITS)


def test_optimize_goes_on_without_a_provider(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One sentence says so, and the file is that of the CPU."""
    model, said = tmp_path / "model.onnx", list[str]()
    onnx.save(mlp(16), model)
    onnxopt.optimize(model, tmp_path / "wanted.onnx", effort="fast")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["FakeExecutionProvider", *CPU])
    with runtime.providers(["fake"], said.append), pytest.warns(UserWarning):
        onnxopt.optimize(model, tmp_path / "small.onnx", effort="fast")
    (sentence,) = said
    assert "FakeExecutionProvider cannot be used on this machine" in sentence
    assert (tmp_path / "small.onnx").read_bytes() == (tmp_path / "wanted.onnx").read_bytes()


def test_a_machine_without_a_gpu_is_not_checked(capsys: pytest.CaptureFixture[str]) -> None:
    assert check_gpu.main(provider="Nonsense") == 1
    assert "not checked: there is no execution provider 'Nonsense'" in capsys.readouterr().err


COMMANDS = (("benchmark",), ("evaluate", "--data", "x.npz"), ("optimize", "-o", "small.onnx"))


@pytest.mark.parametrize("command", COMMANDS, ids=lambda words: words[0])
def test_commands_know_the_providers(command: tuple[str, ...]) -> None:
    commanding.refused(
        commanding.run(*command, DIGITS, "--providers", "cpu,Nonsense"), "'Nonsense'", "expected one of", "CPU"
    )


def test_evaluate_on_a_provider(tmp_path: Path) -> None:
    images = np.random.default_rng(0).random((4, 1, 8, 8), np.float32)
    np.savez(tmp_path / "data.npz", x=images, labels=np.arange(4))
    done = commanding.run("evaluate", DIGITS, "--data", tmp_path / "data.npz", "--providers", "CPU")
    assert done.returncode == 0, done.stderr


THREADS = """
import sys
import onnxruntime
import psutil

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 5
options.register_custom_ops_library(sys.argv[2])
before = psutil.Process().num_threads()
session = onnxruntime.InferenceSession(sys.argv[1], options)
print(psutil.Process().num_threads() - before)
"""

SCRIPT = """
import sys
import numpy as np
import onnxruntime
import onnxopt

model, plain = map(str, sys.argv[1:])
x = {"x": np.random.default_rng(0).standard_normal((2, 64)).astype(np.float32)}
(wanted,) = onnxruntime.InferenceSession(plain, providers=["CPUExecutionProvider"]).run(None, x)

def check(session):
    for _ in range(2):
        np.testing.assert_allclose(session.run(None, x)[0], wanted, rtol=1e-4, atol=1e-4)

def registered(set_provider):
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")  # so the inner session is all OpenVINO's
    set_provider(options)
    onnxopt.register(options)
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "0")
    return onnxruntime.InferenceSession(model, options)

def entries(options):
    options.add_session_config_entry("onnxopt.ep.0.name", "OpenVINO")
    options.add_session_config_entry("onnxopt.ep.0.options", "device_type=CPU;num_of_threads=1")

def refused(options):
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "0")
    options.add_session_config_entry("onnxopt.ep.0.name", "OpenVINO")
    options.add_session_config_entry("onnxopt.ep.0.options", "num_streams=-5")

check(registered(lambda options: options.add_provider("OpenVINOExecutionProvider", {"device_type": "CPU"})))
check(registered(entries))
check(registered(refused))
try:
    registered(lambda options: None)
except Exception as error:
    assert "fallback to CPU EP" in str(error), error
else:
    raise AssertionError("ran without a provider")
options = onnxruntime.SessionOptions()
options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
for chosen in (None, options):
    session = onnxopt.load(model, chosen, providers=["OpenVINOExecutionProvider"])
    assert session.get_providers()[0] == "OpenVINOExecutionProvider"
    check(session)
"""

TUNE = """
import re
import sys
import numpy as np
import onnx
import onnxopt
from onnxopt import runtime
from onnxopt.calibration.stats import Probe

model = onnx.load(sys.argv[1])
(weight,) = model.graph.initializer
x = np.random.default_rng(0).standard_normal((200, 64)).astype(np.float32)

def found(provider):
    said = []
    with runtime.providers([provider]):
        onnxopt.optimize(model, data={"x": x}, tune="2epochs", progress=lambda what, share: said.append(what))
        moved = Probe(model, [weight.name], [{"x": x}]).error({weight.name: 1.5 * onnx.numpy_helper.to_array(weight)})
    distances = re.findall("round 1 .* ([0-9.]+) from the original", "\\n".join(said))
    return [moved, *map(float, distances)]

there, here = found("OpenVINO"), found("CPU")
assert len(here) > 1 and min(here) > 0, here
np.testing.assert_allclose(there, here, rtol=0.02)
"""

C_SCRIPT = """
import sys
from pathlib import Path
import numpy as np
sys.path.insert(0, sys.argv[4])
from c_runtime import CRuntime

c = CRuntime(Path(sys.argv[3]))
x = np.random.default_rng(0).standard_normal((2, 64)).astype(np.float32)
wanted = c.run(c.session(Path(sys.argv[2]), c.options({})), x, 32)
no_fallback = {"session.disable_cpu_ep_fallback": "1"}
options = c.options(no_fallback, "OpenVINO", device_type="CPU")
np.testing.assert_allclose(c.run(c.onnxopt_session(Path(sys.argv[1]), options), x, 32), wanted, rtol=1e-4, atol=1e-4)
c.register(options)
c.entry(options, "session.disable_cpu_ep_fallback", "0")
np.testing.assert_allclose(c.run(c.session(Path(sys.argv[1]), options), x, 32), wanted, rtol=1e-4, atol=1e-4)
try:
    c.onnxopt_session(Path(sys.argv[1]), c.options(no_fallback))
except RuntimeError as error:
    assert "fallback to CPU EP" in str(error), error
else:
    raise AssertionError("ran without a provider")
"""


PLUGIN = """
import sys
import numpy as np
import onnxruntime
import onnxopt

sys.path.insert(0, sys.argv[3])
import onnxruntime_ep_openvino as plugin

model, plain = sys.argv[1:3]
x = {"x": np.random.default_rng(0).standard_normal((2, 64)).astype(np.float32)}
(wanted,) = onnxruntime.InferenceSession(plain, providers=["CPUExecutionProvider"]).run(None, x)
onnxruntime.register_execution_provider_library("openvino", plugin.get_library_path())
(name,) = plugin.get_ep_names()
precise = {"load_config": '{"CPU":{"INFERENCE_PRECISION_HINT":"f32"}}'}
found = [d for d in onnxruntime.get_ep_devices() if d.ep_name == name]
if not found:
    print("no device")
    sys.exit()

def devices(options):
    options.add_provider_for_devices(found, precise)

def entries(options):
    options.add_session_config_entry("onnxopt.ep.0.name", name)
    options.add_session_config_entry("onnxopt.ep.0.options", "load_config=" + precise["load_config"])

for choose in (devices, entries):
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")  # the inner session is all OpenVINO's
    choose(options)
    onnxopt.register(options)
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "0")
    (got,) = onnxruntime.InferenceSession(model, options).run(None, x)
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)
"""


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    (tmp_path / "model.onnx").write_bytes(compressed(matmul()))
    (tmp_path / "plain.onnx").write_bytes(matmul().SerializeToString())
    return [str(tmp_path / name) for name in ("model.onnx", "plain.onnx")]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux" or os.uname().machine != "x86_64", reason="a wheel for Linux on x86-64")
class TestOpenVINO:
    """An execution provider that runs on a CPU."""

    def test_in_python(self, files: list[str], tmp_path: Path) -> None:
        version, package = OPENVINO
        done = python_with(version, "-c", SCRIPT, *files, cwd=tmp_path, package=package)
        assert done.returncode == 0, done.stderr
        assert "the model runs on the CPU, without the session's options" in done.stderr
        np.savez(tmp_path / "data.npz", x=rows(8))
        command = [
            "-c",
            "from onnxopt import cli; cli.main()",
            "evaluate",
            *files,
            "--data",
            "data.npz",
            "--providers",
            "openvino",
        ]
        done = python_with(version, *command, cwd=tmp_path, package=package)
        assert done.returncode == 0, done.stderr

    def test_as_a_plugin(self, files: list[str], tmp_path: Path) -> None:
        """The provider's own library, in the runtime that is installed."""
        done = subprocess.run(
            [sys.executable, "-c", PLUGIN, *files, str(packages(*OPENVINO_PLUGIN))],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        if "no device" in done.stdout:
            pytest.skip("the plugin takes processors of Intel alone")

    def test_optimize(self, files: list[str], tmp_path: Path) -> None:
        version, package = OPENVINO
        done = python_with(version, CHECK_GPU, files[1], "", "OpenVINO", cwd=tmp_path, package=package)
        assert done.returncode == 0, done.stderr
        assert "equal but for rounding" in done.stdout

    def test_weights_that_are_fed(self, files: list[str], tmp_path: Path) -> None:
        """It takes initializers for constants, also where they are inputs: those of tuning, and of probed noise."""
        version, package = OPENVINO
        done = python_with(version, "-c", TUNE, files[1], cwd=tmp_path, package=package)
        assert done.returncode == 0, done.stderr

    def test_in_c(self, files: list[str], tmp_path: Path) -> None:
        version, package = OPENVINO
        library = packages(version, package) / "onnxruntime" / "capi" / f"libonnxruntime.so.{version}"
        arguments = [*files, str(library), str(Path(__file__).parent)]
        done = python_with(version, "-c", C_SCRIPT, *arguments, cwd=tmp_path, package=package)
        assert done.returncode == 0, done.stderr
