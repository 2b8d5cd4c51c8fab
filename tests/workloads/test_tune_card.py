"""The card says what an adapter was trained on and how."""

from dataclasses import replace

from mlx_gptoss.workloads.tune.card import adapter_card
from mlx_gptoss.workloads.tune.options import TuneOptions
from mlx_gptoss.workloads.tune.run_record import RunRecord
from mlx_gptoss.workloads.tune.saved_state import RunState

RECORD = RunRecord(
    model="openai/gpt-oss-20b",
    model_digest="m",
    data="/home/somebody/chats.jsonl",
    data_digest="d",
    options=TuneOptions(rank=4, alpha=6, target=("attention", "lm_head")).as_json(),
    settings={},
    documents=1200,
    validation_documents=60,
    conversations=900,
    steps=90,
    made_with="mlx-gptoss 1, mlx 2",
)


def test_it_names_data_steps_and_loss_but_no_path_of_the_machine() -> None:
    state = RunState(step=50, kept_step=50, best_loss=1.25, learned_tokens=7000)
    card = adapter_card(RECORD, state)
    for words in (
        "base_model: openai/gpt-oss-20b",
        "LoRA of rank 4, scaled by 1.5, on attention, lm_head",
        "`chats.jsonl`: 1,200 documents, 7,000 learned tokens",
        "| prompts | Harmony |",
        "| step | 50 of 90 |",
        "1.2500, of 60 documents",
    ):
        assert words in card
    assert "somebody" not in card


def test_a_loss_that_was_not_measured_is_not_invented() -> None:
    assert "not measured" in adapter_card(RECORD, RunState(step=1))


def test_an_adapter_of_texts_does_not_claim_harmony() -> None:
    texts = replace(RECORD, conversations=0)
    assert "| prompts | plain text |" in adapter_card(texts, RunState(step=1))
