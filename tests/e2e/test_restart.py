"""What outlives processes: the store. What must not: KV of other weights."""

from __future__ import annotations

from pathlib import Path

import pytest
from compare import disagreement
from make_model import write_model
from rig import MODEL, OUTPUT_TOKENS, Rig, make_engine, prompt

pytestmark = pytest.mark.engine


def test_hits_survive_a_restart_of_engine_and_data_plane_but_not_other_weights(rig: Rig, model: Path) -> None:
    tokens = prompt(1300, 60)
    reference = rig.save(tokens)
    assert rig.plane.stop() == 0
    rig.plane.start()
    with make_engine(model, rig.plane, "restarted", hash_seed="7") as restarted:
        fresh = Rig(restarted, rig.plane)
        fresh.expect_hit(tokens, 1280, reference)
        # A reset of the connector starts a new namespace: on this engine, since it outlives the test nowhere.
        fresh.forget()
        assert restarted.reset_local_cache(connector=True)
        assert restarted.generate(tokens, OUTPUT_TOKENS).cached == 0
    write_model(model, MODEL, seed=1)
    try:
        with make_engine(model, rig.plane, "other_weights") as changed:
            answer = changed.generate(tokens, OUTPUT_TOKENS)
            assert answer.cached == 0
            assert disagreement(reference, answer) is not None
    finally:
        write_model(model, MODEL)
