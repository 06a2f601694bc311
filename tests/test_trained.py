"""The reference weights are what ships, and a file of weights is right or refused."""

import hashlib
import json
import re
import shutil
import stat

import pytest
import torch
from safetensors.torch import load_file, save_file

from vae_lib import VAE, evaluate, save_vae, stream, trained, trained_vae


def small_vae(seed=0, **keywords):
    return VAE(**{"hidden_dim": 8, "generator": stream("small", seed)} | keywords)


def in_memory(path):
    """The tensors of a file, not mapped to it: some versions crash when a mapped file changes."""
    return {name: tensor.clone() for name, tensor in load_file(path).items()}


def assert_same_weights(first, second):
    first, second = first.state_dict(), second.state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture
def path(tmp_path):
    save_vae(small_vae(), tmp_path / "own.safetensors")
    return tmp_path / "own.safetensors"


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """A copy of the reference weights that a test may damage."""
    copy = tmp_path / "reference.safetensors"
    for suffix in (".safetensors", ".sha256"):
        shutil.copyfile(trained.REFERENCE_WEIGHTS.with_suffix(suffix), copy.with_suffix(suffix))
    monkeypatch.setattr(trained, "REFERENCE_WEIGHTS", copy)
    return copy


class TestReferenceWeights:
    def test_it_is_the_book_s_network_on_the_cpu(self):
        vae = trained_vae()
        assert (vae.latent_dim, vae.hidden_dim, vae.activation) == (2, 400, "silu")
        assert {(p.dtype, p.device.type) for p in vae.parameters()} == {(torch.float32, "cpu")}
        assert all(torch.isfinite(p).all() and p.requires_grad for p in vae.parameters())

    def test_every_call_gives_a_model_of_its_own(self):
        first, second = trained_vae(), trained_vae()
        assert_same_weights(first, second)
        with torch.no_grad():
            first.decoder.logits.bias.zero_()
        assert_same_weights(second, trained_vae())

    def test_the_global_generator_is_left_alone(self):
        before = torch.get_rng_state()
        trained_vae()
        assert torch.equal(torch.get_rng_state(), before)

    def test_the_device(self):
        assert next(trained_vae("cpu").parameters()).device.type == "cpu"
        assert next(trained_vae(torch.device("cpu")).parameters()).device.type == "cpu"
        with pytest.raises(ValueError, match="^device: expected one of"):
            trained_vae("gpu")

    def test_the_hash_is_that_of_the_file(self):
        digest, name = trained.REFERENCE_WEIGHTS.with_suffix(".sha256").read_text().split()
        content = trained.REFERENCE_WEIGHTS.read_bytes()
        assert hashlib.sha256(content).hexdigest() == digest
        assert name == trained.REFERENCE_WEIGHTS.name
        assert 3_000_000 < len(content) < 5_000_000

    def test_it_is_good(self, mnist):
        assert evaluate(trained_vae(), mnist.test.images).negative_elbo <= 143.5

    @pytest.mark.parametrize("position", [0, 200, -1])
    def test_one_byte_changed(self, shipped, position):
        content = bytearray(shipped.read_bytes())
        content[position] ^= 1
        shipped.write_bytes(content)
        with pytest.raises(ValueError, match="^reference weights .*: expected SHA.*got SHA"):
            trained_vae()

    @pytest.mark.parametrize("length", [0, 1000, 3_000_000])
    def test_truncated(self, shipped, length):
        shipped.write_bytes(shipped.read_bytes()[:length])
        with pytest.raises(ValueError, match="^reference weights .*: expected SHA-256"):
            trained_vae()

    @pytest.mark.parametrize("text", ["", "0" * 64, "not a hash"])
    def test_another_hash(self, shipped, text):
        shipped.with_suffix(".sha256").write_text(text)
        with pytest.raises(ValueError, match="^reference weights .*: expected SHA-256"):
            trained_vae()

    @pytest.mark.parametrize("suffix", [".safetensors", ".sha256"])
    def test_missing(self, shipped, suffix):
        shipped.with_suffix(suffix).unlink()
        with pytest.raises(ValueError, match="^reference weights: expected the files that ship"):
            trained_vae()

    def test_own_weights_do_not_need_the_shipped_ones(self, shipped, path):
        shipped.unlink()
        assert_same_weights(trained_vae(weights=path), small_vae())


class TestSaveAndLoad:
    @pytest.mark.parametrize(
        "sizes",
        [{}, {"latent_dim": 1}, {"latent_dim": 3, "hidden_dim": 5}, {"activation": "leaky_relu"}],
        ids=str,
    )
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_what_is_saved_is_loaded(self, tmp_path, sizes, dtype):
        vae = small_vae(**sizes).to(dtype)
        save_vae(vae, str(tmp_path / "own"))
        loaded = trained_vae(weights=str(tmp_path / "own"))
        assert_same_weights(vae, loaded)
        x = torch.rand(3, 784, dtype=dtype)
        assert torch.equal(vae.encode(x)[0], loaded.encode(x)[0])  # the activation too
        assert (loaded.latent_dim, loaded.hidden_dim, loaded.activation) == (
            vae.latent_dim, vae.hidden_dim, vae.activation,
        )  # fmt: skip

    def test_the_same_weights_give_the_same_bytes(self, path, tmp_path):
        for i in range(5):
            other = tmp_path / f"{i}.safetensors"
            save_vae(small_vae(), other)
            assert other.read_bytes() == path.read_bytes()
        save_vae(small_vae(), path)
        assert other.read_bytes() == path.read_bytes()
        save_vae(trained_vae(), other)
        assert other.read_bytes() == trained.REFERENCE_WEIGHTS.read_bytes()

    def test_a_file_is_replaced_and_nothing_is_left_behind(self, path):
        other = small_vae(seed=1)
        save_vae(other, path)
        assert_same_weights(trained_vae(weights=path), other)
        assert list(path.parent.iterdir()) == [path]

    def test_others_may_read_it_like_any_new_file(self, path):
        plain = path.with_name("plain")
        plain.write_bytes(b"")
        assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)

    @pytest.mark.parametrize("moment", ["write_bytes", "replace"])
    def test_a_failure_leaves_the_old_file(self, path, monkeypatch, moment):
        content = path.read_bytes()

        def full(*_):
            raise OSError(28, "No space left on device")

        def half(self, data):
            with open(self, "wb") as file:
                file.write(data[:1000])
            full()

        if moment == "write_bytes":
            monkeypatch.setattr(trained.Path, "write_bytes", half)
        else:
            monkeypatch.setattr(trained.os, "replace", full)
        with pytest.raises(OSError, match="No space"):
            save_vae(small_vae(seed=1), path)
        assert path.read_bytes() == content and list(path.parent.iterdir()) == [path]

    def test_weights_that_are_not_contiguous(self, tmp_path):
        vae = small_vae()
        vae.decoder.logits.weight.data = vae.decoder.logits.weight.data.t().contiguous().t()
        save_vae(vae, tmp_path / "own")
        assert_same_weights(trained_vae(weights=tmp_path / "own"), vae)

    def test_a_folder_that_is_not_there(self, tmp_path):
        with pytest.raises(ValueError, match="^path: expected a file in a folder that exists"):
            save_vae(small_vae(), tmp_path / "no" / "own")


class TestWrongFile:
    def refused(self, path):
        with pytest.raises(ValueError) as caught:
            trained_vae(weights=path)
        message = str(caught.value)
        assert message.startswith("weights: expected a file written by save_vae, got ")
        assert str(path) in message
        return message

    def test_missing(self, tmp_path):
        assert "does not exist" in self.refused(tmp_path / "none")

    def test_a_folder(self, tmp_path):
        self.refused(tmp_path)

    @pytest.mark.parametrize("kept", [0, 7, 0.2, 0.5, 0.999])
    def test_truncated(self, path, kept):
        content = path.read_bytes()
        path.write_bytes(content[: kept if isinstance(kept, int) else int(kept * len(content))])
        self.refused(path)

    def test_other_content(self, path):
        path.write_text("my notes")
        self.refused(path)
        torch.save(small_vae().state_dict(), path)
        self.refused(path)

    @pytest.mark.parametrize(
        "metadata",
        [
            None,
            {"other": "1"},
            {"vae_lib": "not json"},
            {"vae_lib": "[2, 8]"},
            {"vae_lib": json.dumps({"latent_dim": 2})},
            {"vae_lib": json.dumps({"latent_dim": -1, "hidden_dim": 8, "activation": "gelu"})},
            {"vae_lib": json.dumps({"latent_dim": 2, "hidden_dim": 9, "activation": "gelu"})},
            {"vae_lib": json.dumps({"latent_dim": 2, "hidden_dim": 8, "activation": "gelatine"})},
            {"vae_lib": json.dumps({"surprise": 1})},
        ],
        ids=str,
    )
    def test_other_metadata(self, path, metadata):
        save_file(in_memory(path), path, metadata=metadata)
        self.refused(path)

    def test_a_long_reason_is_cut(self, path):
        sizes = {"latent_dim": 2, "hidden_dim": 9, "activation": "gelu"}
        save_file(in_memory(path), path, metadata={"vae_lib": json.dumps(sizes)})
        reason = re.search(r"\(RuntimeError: (.*)\)$", self.refused(path))[1]
        assert reason.startswith("Error(s) in loading") and len(reason) == 200

    def test_other_tensors(self, path):
        sizes = {"vae_lib": json.dumps({"latent_dim": 2, "hidden_dim": 8, "activation": "gelu"})}
        tensors = in_memory(path)
        bias = tensors.pop("decoder.logits.bias")
        save_file(tensors, path, metadata=sizes)
        assert "decoder.logits.bias" in self.refused(path)
        save_file(tensors | {"decoder.logits.bias": bias[:10]}, path, metadata=sizes)
        self.refused(path)
        save_file(tensors | {"decoder.logits.bias": bias, "x": bias.clone()}, path, metadata=sizes)
        self.refused(path)
        save_file({}, path, metadata=sizes)
        self.refused(path)
