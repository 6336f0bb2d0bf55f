"""What is read at start: configuration, refusals by name, page layouts, the fingerprint."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from shadowserve.config import RefusedError, parse_config
from shadowserve.fingerprint import Identity, canonical_json, model_root, rope_kinds, semantic_config, weight_files
from shadowserve.layout import CPU_VEC, ROWS, RankSlice, cell_form, describe_pages
from shadowserve.model_facts import first_head_of_rank, read_facts
from vllm.v1.kv_cache_interface import (
    FullAttentionSpec,
    KVCacheConfig,
    KVCacheGroupSpec,
    KVCacheTensor,
    KVQuantMode,
    MLAAttentionSpec,
    SlidingWindowSpec,
    create_kv_cache_views,
)
from vllm.v1.kv_cache_layout import KVCacheLayout

# --- configuration ----------------------------------------------------------------------------------


def test_the_keys_of_the_contract_are_read() -> None:
    config = parse_config(
        {
            "data_plane": "tcp://host:1234", "profile": "q8", "save": False, "save_decode": True,
            "lookup_timeout_s": 1, "fetch_deadline_s": 2.5, "min_hit_tokens": 512,
            "tls_ca_file": "/ca", "tls_cert_file": "/cert", "tls_key_file": "/key",
        }
    )  # fmt: skip
    assert (config.profile, config.fetch_deadline_s, config.min_hit_tokens) == ("q8", 2.5, 512)
    assert config.data_plane_options() == {
        "data_plane": "tcp://host:1234", "tls_ca_file": "/ca", "tls_cert_file": "/cert", "tls_key_file": "/key",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("extra", "named"),
    [
        ({}, "data_plane"),
        ({"data_plane": "localhost:80"}, "data_plane"),
        ({"data_plane": "unix:///x", "dataplane": 1}, "dataplane"),
        ({"data_plane": "tcp://x:1", "tls_ca_file": "ca.pem"}, "tls_ca_file"),
        ({"data_plane": "unix:///x", "save": "yes"}, "save"),
        ({"data_plane": "unix:///x", "fetch_deadline_s": 0}, "fetch_deadline_s"),
        ({"data_plane": "unix:///x", "min_hit_tokens": 1.5}, "min_hit_tokens"),
        ({"data_plane": "unix:///x", "lookup_timeout_s": True}, "lookup_timeout_s"),
    ],
)
def test_a_bad_key_or_value_is_named(extra: dict[str, Any], named: str) -> None:
    with pytest.raises(RefusedError, match=f"'{named}'"):
        parse_config(extra)


# --- refusals ---------------------------------------------------------------------------------------

SPEC = FullAttentionSpec(block_size=128, num_kv_heads=8, head_size=128, dtype=torch.bfloat16)


def engine(spec: Any = SPEC, groups: int = 1, **changes: Any) -> tuple[Any, KVCacheConfig]:
    names = [f"model.layers.{index}.self_attn.attn" for index in range(4)]
    kv_cache_config = KVCacheConfig(
        num_blocks=16,
        kv_cache_tensors=[],
        kv_cache_groups=[KVCacheGroupSpec(names, spec)] * groups,
        kv_cache_layout=changes.pop("layout", "LBHNC"),
    )
    parallel = {
        "prefill_context_parallel_size": 1, "decode_context_parallel_size": 1, "pipeline_parallel_size": 1,
        "tensor_parallel_size": 1, "world_size": 1,
    }  # fmt: skip
    parallel |= {key: changes.pop(key) for key in list(changes) if key in parallel}
    return SimpleNamespace(
        kv_transfer_config=SimpleNamespace(kv_load_failure_policy=changes.pop("policy", "recompute")),
        parallel_config=SimpleNamespace(**parallel),
        model_config=SimpleNamespace(
            is_encoder_decoder=changes.pop("encoder_decoder", False),
            get_total_num_hidden_layers=lambda: 4,
            get_total_num_kv_heads=lambda: 8,
        ),
        speculative_config=changes.pop("speculative", None),
        cache_config=SimpleNamespace(cache_dtype="auto"),
    ), kv_cache_config


def test_a_plain_model_is_accepted() -> None:
    facts = read_facts(*engine())
    assert (facts.layers, facts.kv_heads, facts.head_dim, facts.dtype) == (4, 8, 128, "bf16")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"policy": "fail"}, "kv_load_failure_policy=fail.*recompute"),
        ({"spec": MLAAttentionSpec(block_size=128, num_kv_heads=1, head_size=128, dtype=torch.bfloat16)}, "MLA"),
        (
            {
                "spec": SlidingWindowSpec(
                    block_size=128, num_kv_heads=8, head_size=128, dtype=torch.bfloat16, sliding_window=64
                )
            },
            "SlidingWindow",
        ),
        ({"spec": replace(SPEC, sliding_window=64)}, "sliding window"),
        ({"spec": replace(SPEC, attention_chunk_size=64)}, "chunked local"),
        ({"spec": replace(SPEC, head_size_v=64)}, "different sizes of K and V"),
        ({"spec": replace(SPEC, page_size_padded=1 << 20)}, "page_size_padded"),
        ({"spec": replace(SPEC, kv_quant_mode=KVQuantMode.INT8_PER_TOKEN_HEAD)}, "INT8_PER_TOKEN_HEAD"),
        ({"spec": replace(SPEC, dtype=torch.float32)}, "float32"),
        ({"spec": replace(SPEC, block_size=96)}, "block size of 96"),
        ({"groups": 2}, "2 KV cache groups"),
        ({"decode_context_parallel_size": 2}, "decode_context_parallel_size"),
        ({"prefill_context_parallel_size": 2}, "prefill_context_parallel_size"),
        ({"encoder_decoder": True}, "encoder-decoder"),
        ({"speculative": SimpleNamespace(method="eagle3")}, "eagle3"),
        ({"layout": "HBLNC"}, "HBLNC"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(RefusedError, match=named):
        read_facts(*engine(**changes))


def test_heads_of_ranks_follow_vllm() -> None:
    assert [first_head_of_rank(8, 4, rank) for rank in range(4)] == [0, 2, 4, 6]
    assert [first_head_of_rank(2, 4, rank) for rank in range(4)] == [0, 0, 1, 1]


# --- layouts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("isa", ["amx", "vec16", "neon", None])
def test_unmapped_cpu_forms_are_refused_by_name(isa: str | None) -> None:
    with pytest.raises(RefusedError, match=f"'{isa}'"):
        cell_form("cpu", isa)


@pytest.mark.parametrize("layout", list(KVCacheLayout))
def test_rows_are_where_vllm_puts_them_in_every_layout(layout: KVCacheLayout) -> None:
    layers, blocks, heads, tokens, dim = 3, 4, 2, 16, 8
    spec = FullAttentionSpec(block_size=tokens, num_kv_heads=heads, head_size=dim, dtype=torch.bfloat16)
    page = heads * tokens * 2 * dim * 2
    tensor = KVCacheTensor(
        size=layers * blocks * page,
        layers=[f"l.{index}" for index in range(layers)],
        layer_stride=blocks * page if layout.is_layer_compact else page,
        block_stride=page if layout.is_layer_compact else layers * page,
    )
    if layout in (KVCacheLayout.LHBNC, KVCacheLayout.BHLNC):
        tensor.block_stride = {"LHBNC": page // heads, "BHLNC": layers * page}[layout.name]
        tensor.layer_stride = {"LHBNC": blocks * page, "BHLNC": page // heads}[layout.name]
    raw = torch.zeros(tensor.size, dtype=torch.int8)
    views = create_kv_cache_views(raw, spec, blocks, layout, tensor)
    rank = RankSlice(first_layer=0, first_head=0, heads=heads, head_dim=dim, page_tokens=tokens, page_count=blocks)
    found: Any = describe_pages(ROWS, raw.data_ptr(), raw.nbytes, views, rank)
    for layer, block, head, token, d, value in [(0, 0, 0, 0, 0, 0), (2, 3, 1, 15, 7, 1), (1, 2, 0, 5, 3, 1)]:
        offset, token_stride, dim_stride = found["v" if value else "k"]
        address = (
            found["layer_offset"][layer] + block * found["page_stride"] + head * found["head_stride"]
            + offset + token * token_stride + d * dim_stride
        )  # fmt: skip
        cell = views[layer][block, head, token, value * dim + d]
        assert address == cell.data_ptr() - raw.data_ptr()


def test_the_cpu_form_is_what_vllms_own_cache_kernel_writes() -> None:
    ops = pytest.importorskip("vllm._custom_ops")
    blocks, heads, tokens, dim = 2, 2, 32, 64
    cache = torch.zeros(blocks, heads, tokens, 2 * dim, dtype=torch.bfloat16)
    rank = RankSlice(first_layer=0, first_head=0, heads=heads, head_dim=dim, page_tokens=tokens, page_count=blocks)
    found: Any = describe_pages(CPU_VEC, cache.data_ptr(), cache.nbytes, [cache], rank)
    key = torch.randn(tokens, heads, dim, dtype=torch.bfloat16)
    value = torch.randn(tokens, heads, dim, dtype=torch.bfloat16)
    planes = cache.view(blocks, heads, 2 * tokens, dim)
    keys, values = planes.chunk(2, dim=2)
    slots = torch.arange(tokens, 2 * tokens, dtype=torch.int64)  # block 1
    ops.cpu_attn_reshape_and_cache(
        key, value, keys, values, slots, "vec", k_scale=1.0, v_scale=1.0, kv_cache_dtype="auto"
    )
    flat = cache.view(-1)
    for name, wanted in (("k", key), ("v", value)):
        offset, token_stride, dim_stride = found[name]
        for head in range(heads):
            base = found["page_stride"] + head * found["head_stride"] + offset
            cell = torch.as_strided(flat, (tokens, dim), (token_stride // 2, dim_stride // 2), base // 2)
            assert torch.equal(cell, wanted[:, head])


# --- fingerprint ------------------------------------------------------------------------------------


class Sha:
    """A hasher with the meaning of _core's, in a few lines."""

    def fingerprint_files(self, paths: Sequence[str], cache_file: str | None = None) -> bytes:
        return hashlib.sha256(b"".join(hashlib.sha256(Path(path).read_bytes()).digest() for path in paths)).digest()

    def root_key(self, parts: Sequence[bytes]) -> bytes:
        return hashlib.sha256(b"".join(len(part).to_bytes(4, "little") + part for part in parts)).digest()


def model(folder: Path, **changes: Any) -> Any:
    config = {
        "hidden_size": 64,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
        "_name_or_path": str(folder),
    }
    config |= changes.pop("config", {})
    return SimpleNamespace(
        model_config=SimpleNamespace(
            model=str(folder), revision=None, seed=changes.pop("seed", 0), dtype=torch.bfloat16, quantization=None,
            hf_config=SimpleNamespace(to_dict=lambda: config), max_model_len=changes.pop("max_model_len", 4096),
        ),
        load_config=SimpleNamespace(load_format=changes.pop("load_format", "auto"), download_dir=None),
        cache_config=SimpleNamespace(cache_dtype="auto"),
        parallel_config=SimpleNamespace(tensor_parallel_size=1, pipeline_parallel_size=1),
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    checkpoint = tmp_path / "model"
    checkpoint.mkdir()
    (checkpoint / "model.safetensors").write_bytes(b"weights")
    return checkpoint


def test_a_copy_under_another_name_shares(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "renamed.safetensors").write_bytes(b"weights")
    assert model_root(Sha(), model(folder)) == model_root(Sha(), model(copy))


def test_other_weights_under_the_same_path_do_not_share(folder: Path) -> None:
    before = model_root(Sha(), model(folder))
    (folder / "model.safetensors").write_bytes(b"weightz")
    assert model_root(Sha(), model(folder)) != before


def test_what_changes_kv_changes_the_root(folder: Path) -> None:
    base = model_root(Sha(), model(folder))
    yarn = {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4}}
    longrope = {"rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4}}
    roots = [
        base,
        model_root(Sha(), model(folder, config=yarn)),
        model_root(Sha(), model(folder, config={"hidden_size": 65})),
        model_root(Sha(), model(folder, config=longrope, max_model_len=4096)),
        model_root(Sha(), model(folder, config=longrope, max_model_len=8192)),
        model_root(Sha(), model(folder, load_format="dummy", seed=0)),
        model_root(Sha(), model(folder, load_format="dummy", seed=1)),
    ]
    assert len(set(roots)) == len(roots)


def test_what_does_not_change_kv_does_not_change_the_root(folder: Path) -> None:
    base = model_root(Sha(), model(folder))
    assert model_root(Sha(), model(folder, max_model_len=8192)) == base
    assert model_root(Sha(), model(folder, config={"transformers_version": "9", "eos_token_id": 5})) == base


def test_a_load_format_whose_contents_cannot_be_told_is_refused(folder: Path) -> None:
    with pytest.raises(RefusedError, match="tensorizer"):
        model_root(Sha(), model(folder, load_format="tensorizer"))


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="no weight files"):
        weight_files(tmp_path)


def test_rope_kinds_are_found_at_any_depth() -> None:
    nested = {"text_config": {"rope_scaling": {"type": "dynamic"}}, "type": "unrelated"}
    assert rope_kinds(nested) == {"dynamic"}


@given(st.dictionaries(st.text(min_size=1), st.integers() | st.text() | st.none()))
def test_the_configuration_is_encoded_whatever_the_order(config: dict[str, Any]) -> None:
    turned = dict(reversed(list(config.items())))
    assert canonical_json(semantic_config(config)) == canonical_json(semantic_config(turned))


def request(**fields: Any) -> Any:
    base: dict[str, Any] = {
        "prompt_embeds": None, "prompt_token_ids": [1], "prompt_is_token_ids": None, "resumable": False,
        "lora_request": None, "cache_salt": None, "mm_features": [],
    }  # fmt: skip
    return SimpleNamespace(**(base | fields))


def test_salts_separate_and_absent_is_not_empty() -> None:
    identity = Identity(Sha())
    parts = [identity.parts(request(cache_salt=salt)) for salt in (None, "", "a", "b")]
    assert len({tuple(part) for part in parts if part is not None}) == 4
    assert identity.parts(request(cache_salt="a")) == identity.parts(request(cache_salt="a"))


def test_adapters_enter_by_content_and_an_unreadable_one_bypasses(folder: Path, tmp_path: Path) -> None:
    def lora(path: Path, number: int) -> Any:
        return SimpleNamespace(lora_int_id=number, lora_path=str(path), lora_name=path.name, load_inplace=False)

    identity = Identity(Sha())
    other = tmp_path / "other"
    other.mkdir()
    (other / "adapter_model.safetensors").write_bytes(b"weights")
    same = [identity.parts(request(lora_request=lora(path, number))) for number, path in enumerate((folder, other))]
    assert same[0] == same[1] != identity.parts(request())
    assert identity.parts(request(lora_request=lora(tmp_path / "absent", 9))) is None


def test_multimodal_items_enter_with_their_position() -> None:
    def item(offset: int, identifier: str) -> Any:
        return SimpleNamespace(
            modality="image", identifier=identifier, mm_position=SimpleNamespace(offset=offset, length=16)
        )

    identity = Identity(Sha())
    extras = identity.extras(request(mm_features=[item(300, "b"), item(10, "a")]))
    assert [position for position, _ in extras] == [10, 300]
    assert identity.extras(request(mm_features=[item(10, "b"), item(300, "a")])) != extras
