"""Hugging Face models made on disk: nothing is downloaded. Imported late, since transformers takes seconds."""

import json
from pathlib import Path
from typing import Any

CHAT_TEMPLATE = (
    "{% for m in messages %}{{ bos_token }}{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}>{% endif %}"
)


def write_tokenizer(folder: Path, *, chat_template: str | None = None, begins: bool = True) -> None:
    """A byte-level BPE tokenizer of digits, made by hand. `begins`: it puts BOS in front of a text, as Llama's does."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    characters = ["<pad>", "<s>", "</s>", *"0123456789+=>", "Ġ", "12"]
    vocabulary = {token: number for number, token in enumerate(characters)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[("1", "2")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if begins:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", chat_template=chat_template
    )
    fast.save_pretrained(folder)


def write_model(folder: Path, family: str = "llama", **options: Any) -> None:
    """Saves a `tiny_model`; by default with more logits than the tokenizer has tokens, as real ones have."""
    tiny_model(family, **options).save_pretrained(folder)


def tiny_model(family: str = "llama", *, seed: int = 0, vocab_size: int = 24, **options: Any) -> Any:
    """A causal language model, `llama` or `qwen2`, of two layers with random weights of that seed."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

    size = {
        "vocab_size": vocab_size,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "tie_word_embeddings": family == "qwen2",
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        **options,
    }
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(**size)) if family == "llama" else Qwen2ForCausalLM(Qwen2Config(**size))


def taught(folder: Path, problems: Path, steps: int = 60) -> None:
    """Trains the model in `folder` on the problems, so that it is right now and then, and writes it back."""
    import torch

    from experiments.batches import encode_answers, encode_prompts
    from experiments.losses import sft_loss
    from experiments.models.hf import FullModel, load_base
    from experiments.models.shared_prompt import completion_logits
    from experiments.tasks.hf_tokenizer import load

    cpu, tokenizer = torch.device("cpu"), load(str(folder), "none")
    model = FullModel(load_base(folder))
    entries = [json.loads(line) for line in problems.read_text().splitlines()]
    adam = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(steps):
        batch = [entries[(step * 16 + i) % len(entries)] for i in range(16)]
        prompts = encode_prompts([entry["prompt"] for entry in batch], tokenizer, cpu)
        answers = encode_answers([entry["answer"] for entry in batch], tokenizer, cpu)
        logits = completion_logits(model, prompts.tokens, answers.tokens, prompts.padding)
        sft_loss(logits, answers.tokens, answers.mask).backward()
        adam.step()
        adam.zero_grad()
    model.save(folder)


QWEN_2_5_0_5B: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "hidden_act": "silu",
    "hidden_size": 896,
    "intermediate_size": 4864,
    "max_position_embeddings": 32768,
    "model_type": "qwen2",
    "num_attention_heads": 14,
    "num_hidden_layers": 24,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "use_sliding_window": False,
    "vocab_size": 151936,
}
"""What https://huggingface.co/Qwen/Qwen2.5-0.5B publishes as its config.json, which has 494,032,768 parameters."""


def write_published(folder: Path, config: dict[str, Any]) -> Path:
    """A folder that looks like a model's: its config.json is real, its weights and tokenizer are empty files."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("model.safetensors", "tokenizer.json"):
        (folder / name).touch()
    return folder
