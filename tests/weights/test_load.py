"""Weight files are read whole or refused, and never run code."""

import gzip
import json
import os
import pickle
import re
import sys
from pathlib import Path

import huggingface_hub
import ml_dtypes
import numpy as np
import pytest
from huggingface_hub import constants, errors
from safetensors.numpy import save_file
from weights import key_lists

from cpnet_jax import weights
from cpnet_jax.errors import UserError
from cpnet_jax.weights import tensor_files

TENSORS = {
    "conv1.weight": np.random.default_rng(0).normal(size=(4, 3, 7, 7)).astype(np.float32),
    "bn1.num_batches_tracked": np.asarray(7, np.int64),
}


def refusal(source):
    with pytest.raises(UserError) as refused:
        weights.read(str(source))
    message = str(refused.value)
    assert "\n" not in message
    return message


def assert_read(source, tensors=TENSORS):
    found = weights.read(str(source))
    assert found.keys() == tensors.keys()
    assert all(found[name].dtype == tensor.dtype for name, tensor in tensors.items())
    assert all(np.array_equal(found[name], tensor) for name, tensor in tensors.items())


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="torch reads its own files")


@pytest.fixture
def save(torch, tmp_path):
    """Saves an object by torch.save; returns its path."""

    def write(content, name="model.pth", **how):
        torch.save(content, tmp_path / name, **how)
        return tmp_path / name

    return write


@pytest.fixture
def state(torch):
    return {name: torch.from_numpy(np.array(tensor)) for name, tensor in TENSORS.items()}


def test_safetensors_need_no_torch(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    save_file(TENSORS, tmp_path / "model.safetensors")
    assert_read(tmp_path / "model.safetensors")


@pytest.mark.parametrize("suffix", ["pth", "pt", "bin"])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_files_of_torch_are_read(save, state, suffix, zipped):
    assert_read(save(state, f"model.{suffix}", _use_new_zipfile_serialization=zipped))


@pytest.mark.parametrize("name", ["checkpoint.pth.tar", "last.ckpt", "epoch_160", "weights.safetensors"])
def test_a_file_of_torch_is_recognised_whatever_its_suffix(save, state, name):
    assert_read(save({"state_dict": state}, name))


@pytest.mark.parametrize("name", ["model.pth", "last.ckpt"])
def test_safetensors_are_recognised_whatever_their_suffix(tmp_path, name):
    save_file(TENSORS, tmp_path / name)
    assert_read(tmp_path / name)


@pytest.mark.parametrize("first", [b"\x80", b"<"], ids=["pickle", "page"])
def test_safetensors_whose_header_length_begins_like_another_file_are_read(tmp_path, first):
    path = tmp_path / "model.safetensors"
    save_file(TENSORS, path)
    length, contents = int.from_bytes(path.read_bytes()[:8], "little"), path.read_bytes()[8:]
    longer = next(n for n in range(length, 2**20) if n.to_bytes(8, "little").startswith(first))
    padding = b" " * (longer - length)
    path.write_bytes(longer.to_bytes(8, "little") + contents[:length] + padding + contents[length:])
    assert_read(path)


@pytest.mark.parametrize(
    ("start", "said"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0d71\nsize 19332096\n", "a pointer of Git LFS"),
        (b"\n<!DOCTYPE html><html>Google Drive - Quota exceeded</html>", "a web page"),
        (gzip.compress(b"weights"), "a compressed archive"),
        (b"epoch_160.pth".ljust(257, b"\0") + b"ustar\x0000".ljust(255, b"\0"), "an archive"),
    ],
    ids=["pointer", "page", "gzip", "tar"],
)
@pytest.mark.parametrize("name", ["model.pth", "model.safetensors", "model.pth.tar"])
def test_what_was_downloaded_instead_of_the_weights_is_named(tmp_path, start, said, name):
    (tmp_path / name).write_bytes(start)
    assert refusal(tmp_path / name).startswith(f"{tmp_path / name} is {said}")


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_a_torchscript_program_is_refused_with_the_way_out(torch, tmp_path):
    path = tmp_path / "model.pt"
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 3), torch.zeros(1, 2)), path)
    assert "is a TorchScript program, and reading it would run code" in refusal(path)
    page = (Path(__file__).parents[2] / "docs" / "weights.md").read_text()
    [command] = re.findall(r'python -c "(import torch; torch\.save\(torch\.jit.*)"', page)
    exec(command.replace("in.pt", str(path)).replace("out.pth", str(tmp_path / "out.pth")))
    assert weights.read(str(tmp_path / "out.pth")).keys() == {"weight", "bias"}


@pytest.mark.parametrize("module", [b"numpy._core.multiarray", b"numpy.core.multiarray"], ids=["numpy 2", "numpy 1"])
def test_numbers_of_numpy_beside_the_weights_are_accepted(save, state, module):
    scores = {"best_score": np.float64(0.4392), "loss": np.float32(1.5), "epoch": np.int64(3), "done": np.bool_(True)}
    path = save({"meta": {"hook_msgs": scores}, "state_dict": state}, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes().replace(b"numpy._core.multiarray", module))
    assert_read(path)
    assert tensor_files.read(path)[1]["hook_msgs"] == scores


def test_a_number_of_numpy_cannot_carry_code(save, state, tmp_path):
    trace = tmp_path / "trace"

    class Scalar:
        def __reduce__(self):
            return np.float64(0).__reduce__()[0], (np.dtype("O"), Code(trace))

    assert "reading them would run code" in refusal(save({"meta": {"best": Scalar()}, "state_dict": state}))
    assert not trace.exists()


@pytest.mark.parametrize(
    "wrapped",
    ["model.{}", "ema_model.module.{}", "module.model._orig_mod.{}", "model._fsdp_wrapped_module.{}"],
)
def test_prefixes_of_wrapped_models_are_removed(save, state, wrapped):
    assert_read(save({"state_dict": {wrapped.format(name): tensor for name, tensor in state.items()}}))


@pytest.mark.parametrize("wrapper", ["_orig_mod", "_checkpoint_wrapped_module"])
def test_names_in_wrapped_parts_of_a_model_are_plain(save, state, wrapper):
    renamed = {name.replace(".", f".{wrapper}.", 1): tensor for name, tensor in state.items()}
    assert all(wrapper in name for name in renamed)
    assert_read(save(renamed))


@pytest.mark.parametrize("prefix", ["", "model.", "module."])
@pytest.mark.parametrize("average", ["ema_{underscored}", "ema_model.{name}", "model_ema.module.{name}"])
def test_moving_averages_beside_the_weights_are_dropped_with_a_note(save, state, capsys, prefix, average):
    averages = {
        average.format(name=name, underscored=name.replace(".", "_")): tensor + 1 for name, tensor in state.items()
    }
    path = save({"state_dict": {prefix + name: tensor for name, tensor in state.items()} | averages})
    assert_read(path)
    [note] = capsys.readouterr().err.splitlines()
    assert note.startswith(f"Note: {path}: {min(averages)} and 1 more not used (moving averages")


def test_the_counter_of_an_averaged_model_is_dropped(torch, save, state, capsys):
    averaged = {f"module.{name}": tensor for name, tensor in state.items()} | {"n_averaged": torch.tensor(7)}
    assert_read(save(averaged))
    assert "Note: " in capsys.readouterr().err


def test_moving_averages_alone_get_the_names_of_the_weights(save, torch):
    names = [*key_lists.shapes("cpnet_resnet18"), *key_lists.shapes("cpnet_resnet50")]
    averages = {f"ema_{name.replace('.', '_')}": torch.zeros(1) for name in names}
    assert weights.read(str(save(averages))).keys() == set(names)


@pytest.mark.parametrize(
    "meta",
    [{"CLASSES": ("a", "b c")}, {"CLASSES": ["a", "b c"]}, {"dataset_meta": {"classes": ("a", "b c"), "palette": []}}],
    ids=str,
)
def test_class_names_of_mmsegmentation_are_read(save, state, meta):
    assert weights.load(str(save({"meta": meta, "state_dict": state}))).classes == ("a", "b c")


def test_wrapped_tensors_are_unwrapped_and_ignored_entries_are_named(save, state, capsys):
    parallel = {f"module._orig_mod.{name}": tensor for name, tensor in state.items()}
    path = save({"model": parallel, "optimizer": {"lr": 0.1}, "epoch": 90})
    assert_read(path)
    assert capsys.readouterr().err == f"{path}: reading 'model', ignoring epoch, optimizer\n"


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64], ids=lambda dtype: np.dtype(dtype).name)
def test_other_precisions_are_cast_and_reported(tmp_path, capsys, dtype):
    path = tmp_path / "model.safetensors"
    other = TENSORS["conv1.weight"].astype(dtype)
    save_file({**TENSORS, "conv1.weight": other}, path)
    assert_read(path, {**TENSORS, "conv1.weight": other.astype(np.float32)})
    assert capsys.readouterr().err == f"{path}: 1 {np.dtype(dtype).name} tensors cast to float32\n"


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_half_precision_of_torch_is_cast_and_reported(torch, save, state, capsys, name):
    half = state["conv1.weight"].to(getattr(torch, name))
    path = save(state | {"conv1.weight": half})
    assert_read(path, {**TENSORS, "conv1.weight": half.float().numpy()})
    assert f"1 {name} tensors cast to float32" in capsys.readouterr().err


def test_parameters_of_older_files_are_tensors(torch, save, state):
    parameter = torch.nn.Parameter(state["conv1.weight"])
    assert_read(save(state | {"conv1.weight": parameter}))


def test_tensors_that_numpy_cannot_hold_are_refused(torch, save, state, tmp_path):
    kernel = state["conv1.weight"]
    for strange in (kernel.to(torch.float8_e4m3fn), kernel.to_sparse(), kernel.to("meta")):
        assert "holds tensors that numpy cannot hold" in refusal(save(state | {"conv1.weight": strange}))
    save_file({"weight": TENSORS["conv1.weight"].astype(ml_dtypes.float8_e4m3fn)}, tmp_path / "model.safetensors")
    assert "holds tensors that numpy cannot hold" in refusal(tmp_path / "model.safetensors")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("name", ["model.pth", "model.safetensors"])
def test_an_unreadable_file_is_not_called_damaged(torch, tmp_path, name):
    (tmp_path / name).touch(mode=0)
    assert refusal(tmp_path / name).startswith(f"{tmp_path / name} cannot be read (Permission denied)")


@pytest.mark.parametrize("kept", [4, 60, -100])
def test_a_truncated_safetensors_file_is_refused(tmp_path, kept):
    path = tmp_path / "model.safetensors"
    save_file(TENSORS, path)
    path.write_bytes(path.read_bytes()[:kept])
    assert refusal(path).startswith(f"{path} is truncated, damaged or another kind of file")


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("kept", [0, 10, 300, -100])
def test_a_truncated_file_of_torch_is_refused(save, state, kept, zipped):
    path = save(state, _use_new_zipfile_serialization=zipped)
    path.write_bytes(path.read_bytes()[:kept])
    assert refusal(path) == f"{path} is truncated, damaged or another kind of file: download or copy it again"


def test_an_archive_of_another_kind_is_not_called_unreadable(torch, tmp_path):
    np.savez(tmp_path / "whole.npz", kernel=np.zeros(9999))
    (tmp_path / "model.pth").write_bytes((tmp_path / "whole.npz").read_bytes()[:9000])
    assert refusal(tmp_path / "model.pth").startswith(f"{tmp_path}/model.pth is truncated, damaged or another kind")


def test_an_older_file_of_torch_is_called_truncated_wherever_it_ends(save, state):
    """Also within the name of an object, which torch refuses as that of another one."""
    path = save(state, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    for kept in range(2, 700, 3):  # names have more than three characters
        path.write_bytes(whole[:kept])
        assert refusal(path).startswith(f"{path} is truncated, damaged or another kind of file"), kept


class Code:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("as_torch", [True, False], ids=["saved by torch", "a plain pickle"])
def test_a_pickle_with_code_in_it_is_refused_and_not_run(save, state, tmp_path, as_torch):
    trace = tmp_path / "trace"
    content = {"state_dict": state, "hook": Code(trace)}
    path = save(content)
    if not as_torch:
        path.write_bytes(pickle.dumps({"hook": Code(trace)}, protocol=2))
    assert "reading them would run code" in refusal(path)
    assert not trace.exists()
    pickle.loads(pickle.dumps(Code(trace)))
    assert trace.exists(), "the code is real"


def test_without_torch_the_error_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    path = tmp_path / "model.pth"
    path.write_bytes(b"anything")
    assert "pip install torch" in refusal(path)


def test_files_without_tensors_are_refused(save, tmp_path):
    assert "is not a file" in refusal(tmp_path / "absent.pth")
    (tmp_path / "model.onnx").write_bytes(b"")
    assert "has an unknown suffix" in refusal(tmp_path / "model.onnx")
    assert "holds a list, not tensors by name" in refusal(save([1, 2]))
    assert "has lr, which are not tensors" in refusal(save({"lr": 0.1}))
    assert "is empty" in refusal(save({}))


@pytest.fixture
def offline_hub(tmp_path, monkeypatch):
    """An unreachable hub; returns the folder of its cache."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def put_into_cache(cache, repo, **content):
    """Writes files into the cache, in huggingface_hub's layout."""
    commit = "0" * 40
    folder = cache / f"models--{repo.replace('/', '--')}"
    snapshot = folder / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(commit)
    for write in content.values():
        write(snapshot)


def test_a_file_of_the_hub_is_read_from_the_cache_with_its_cards_normalisation(offline_hub):
    card = {"pretrained_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.5, 0.5]}}
    put_into_cache(
        offline_hub,
        "timm/small",
        file=lambda folder: save_file(TENSORS, folder / "model.safetensors"),
        card=lambda folder: (folder / "config.json").write_text(json.dumps(card)),
    )
    assert_read("hf://timm/small")
    assert_read("hf://timm/small/model.safetensors")
    expected = weights.InputNormalization((127.5, 127.5, 127.5), (63.75, 127.5, 127.5))
    assert weights.load("hf://timm/small").normalization == expected


def test_offline_the_error_names_the_file_to_download(offline_hub):
    message = refusal("hf://timm/resnet50c.gluon_in1k")
    assert "https://huggingface.co/timm/resnet50c.gluon_in1k/resolve/main/model.safetensors" in message
    assert "/resolve/abc/x.pth" in refusal("hf://timm/small@abc/x.pth")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        ("RemoteEntryNotFoundError", "has no file model.safetensors on the hub: name one"),
        ("RepositoryNotFoundError", "cannot be"),
    ],
)
def test_a_file_or_model_missing_on_the_hub_is_reported(monkeypatch, error, said):

    def download(*, local_files_only=False, **_):
        if local_files_only:
            raise errors.LocalEntryNotFoundError("not in the cache")
        kind = getattr(errors, error)
        raise kind.__new__(kind)  # its constructor wants a server's answer

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert said in refusal("hf://timm/small")


def test_an_unreachable_hub_is_reported_once(monkeypatch, capsys, caplog):
    def download(*, local_files_only=False, **_):
        if not local_files_only:
            huggingface_hub.logging.get_logger("huggingface_hub.utils._http").warning("Retrying in 8s")
        raise errors.LocalEntryNotFoundError("not there")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert "hf://timm/small is not in the cache and the hub cannot be reached" in refusal("hf://timm/small")
    assert capsys.readouterr().err == "config.json of timm/small is not in the cache: asking the hub\n"
    assert not caplog.records


@pytest.mark.parametrize("address", ["hf://", "hf://timm", "hf:///x/y"])
def test_a_malformed_address_is_refused(address):
    assert "write hf://ORG/MODEL" in refusal(address)
